"""The corpus as rows: everything that is in the files, once, and nothing else."""

from importlib.resources import files

import pytest
from ruamel.yaml import YAML

from tk.errors import UsageError
from tk.plugins import load

LANGUAGES = sorted(entry.name for entry in (files("chatterbot_corpus") / "data").iterdir() if entry.is_dir())


@pytest.fixture
def rows():
    component = load().get("datasets", "chatterbot")

    def open_(**options):
        return component.build(component.config()(**options)).open("")

    return open_


def said(row):
    return tuple(message["content"] for message in row.data["messages"])


def in_file(language, topic):
    text = (files("chatterbot_corpus") / "data" / language / f"{topic}.yml").read_text(encoding="utf-8")
    return YAML(typ="safe", pure=True).load(text)["conversations"]


def test_english_has_several_hundred_rows_each_once(rows):
    data = rows()
    everything = [data[i] for i in range(len(data))]
    assert len(everything) == len({said(row) for row in everything}) > 900
    assert data.notes[0].endswith("repeated conversations are used once")


def test_question_and_answer_lists_become_two_messages(rows):
    data = rows(topics=["science"])
    assert [said(data[i]) for i in range(len(data))] == [tuple(turns) for turns in in_file("english", "science")]
    assert [m["role"] for m in data[0].data["messages"]] == ["user", "assistant"]
    assert data[0].data["topic"] == "science"
    assert [data[i].origin for i in (0, 4)] == ["chatterbot:science:1", "chatterbot:science:5"]


def test_dialogues_keep_their_turns(rows):
    data = rows(topics=["health"])
    assert [said(data[0])] == [tuple(turns) for turns in in_file("english", "health")]
    assert [m["role"] for m in data[0].data["messages"]] == ["user", "assistant"] * 4 + ["user"]


def test_alternative_answers_become_a_row_each(rows):
    data = rows(topics=["computers"])
    expected = [(turns[0], answer) for turns in in_file("english", "computers") for answer in turns[1:]]
    assert [said(data[i]) for i in range(len(data))] == expected
    assert len(rows(topics=["computers"], alternatives=[])) == len(in_file("english", "computers"))


def test_a_list_that_is_written_as_one_text_is_unfolded(rows):
    data = rows(topics=["trivia"])
    found = [said(data[i]) for i in range(len(data)) if "bingo" in said(data[i])[0]]
    assert ('In a game of bingo, which number is represented by the phrase "two little ducks"?', "22") in found
    assert len(data) == len(in_file("english", "trivia"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_readable(rows, language):
    data = rows(language=language)
    assert len(data) > 0
    assert all(text.strip() for i in range(len(data)) for text in said(data[i]))


def test_the_fingerprint_follows_the_content(rows):
    assert rows().fingerprint == rows().fingerprint
    assert rows(topics=["science"]).fingerprint != rows(topics=["food"]).fingerprint


def test_unknown_languages_and_topics_suggest_the_nearest(rows):
    with pytest.raises(UsageError, match="no language 'engish'. Did you mean 'english'?"):
        rows(language="engish")
    with pytest.raises(UsageError, match="no topic 'sciense'. Did you mean 'science'?"):
        rows(topics=["sciense"])


def test_pairs_hold_an_answer_against_that_of_another_question(rows):
    data = rows(rows="pairs")
    plain = rows()
    assert len(data) == len(plain)
    for i in range(len(data)):
        row = data[i].data
        assert row["chosen"] != row["rejected"]
        assert [*row["prompt"], {"role": "assistant", "content": row["chosen"]}] == plain[i].data["messages"][
            : len(row["prompt"]) + 1
        ]
    assert data.fingerprint != plain.fingerprint
    assert data[7] == rows(rows="pairs")[7]


@pytest.mark.parametrize(
    ("form", "columns"), [("passages", {"query", "positive", "topic"}), ("labels", {"text", "label"})]
)
def test_questions_with_their_answer_or_topic_stand_once(rows, form, columns):
    data, plain = rows(rows=form), rows()
    questions = [row.data.get("query", row.data.get("text")) for row in (data[i] for i in range(len(data)))]
    assert len(set(questions)) == len(data) == len({said(plain[i])[0] for i in range(len(plain))}) > 700
    assert all(set(data[i].data) == columns for i in range(len(data)))
    asked = {said(row)[0]: row.data for row in (plain[i] for i in reversed(range(len(plain))))}
    for i in (0, 100, len(data) - 1):
        row, first = data[i].data, asked[questions[i]]
        assert row.get("label", row.get("topic")) == first["topic"]
        assert row.get("positive", first["messages"][1]["content"]) == first["messages"][1]["content"]
    assert "repeated questions" in data.notes[0]
    assert data.fingerprint != plain.fingerprint
