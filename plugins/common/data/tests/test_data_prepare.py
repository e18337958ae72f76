"""From files to examples: formats are recognised, every row is accounted for, held-out rows are never trained on."""

import json
from dataclasses import dataclass, replace

import pytest

from tk.config.sections import DataSection, EvalSection, SourceSection
from tk.contracts import Example, Limit
from tk.errors import DataError, UsageError
from tk.hookspecs import hookimpl
from tk.plugins import load
from tk.registry import Registry
from tk.specs import DatasetSpec, FormatSpec
from tk_data.prepare import prepare_data

REGISTRY = load()


class Bytes:
    """A method whose tokens are the bytes of the conversation; the assistant's are supervised."""

    def encode(self, samples, template, limit):
        return [self._example(sample, limit) for sample in samples]

    def _example(self, sample, limit):
        if sample.messages and not any(m.role == "assistant" for m in sample.messages):
            raise DataError(f"{sample.origin}: no assistant turn")
        said = [(m.text.encode(), m.role == "assistant") for m in sample.messages] or [(sample.text.encode(), True)]
        ids = [token for text, _ in said for token in text]
        weights = [float(mine) for text, mine in said for _ in text]
        if limit.max_length is not None and len(ids) > limit.max_length:
            if limit.truncation == "error":
                raise DataError(f"{sample.origin}: {len(ids)} tokens, more than max_length {limit.max_length}")
            return []
        return [Example(len(ids), {"ids": ids, "weights": weights}, {"loss": sum(weights)}, sample.origin)]


def written(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def pair(i, extra=""):
    return {"prompt": f"q{i:03}", "completion": f"a{i:03}{extra}", "n": i}


@pytest.fixture
def run(tmp_path):
    def run_(sources, evals=None, registry=REGISTRY, seed=0, hold_out=0.0, progress=None, **data):
        def sections(given):
            made = {}
            for name, source in (given or {}).items():
                if isinstance(source, list):
                    source = {"path": written(tmp_path / f"{name}.jsonl", source)}
                made[name] = SourceSection(**source)
            return made

        if not isinstance(sources, dict):
            sources = {"data": sources}
        return prepare_data(
            registry,
            DataSection(sources=sections(sources), **data),
            EvalSection(sources=sections(evals), hold_out=hold_out),
            None,
            Bytes(),
            seed=seed,
            progress=progress,
        )

    return run_


def texts(examples):
    return [bytes(example.values["ids"].tolist()).decode() for example in examples]


def test_rows_become_examples_in_order_with_an_account(run, tmp_path):
    prepared = run([pair(i) for i in range(1000)])
    assert texts(prepared.train)[:2] == ["q000a000", "q001a001"]
    assert len(prepared.train) == 1000
    (source,) = prepared.report.sources
    assert (source.name, source.path, source.format) == ("data", str(tmp_path / "data.jsonl"), "prompt-completion")
    assert (source.read, source.used, source.skipped, source.examples) == (1000, 1000, {}, 1000)
    assert (source.tokens, source.supervised, len(source.fingerprint)) == (8000, 4000, 64)
    assert prepared.train[700].origin == f"{tmp_path}/data.jsonl:701"
    assert not (tmp_path / "run").exists()
    assert json.loads(json.dumps(prepared.report.as_rows()))[0]["tokens"] == 8000
    assert "1000 of 1000 rows, 1000 examples, 8000 tokens, 4000 supervised" in source.line()


def test_several_sources_follow_one_another(run):
    prepared = run({"one": [pair(1)], "two": [{"text": "plain"}]}, evals={"x": [pair(7)], "y": [pair(8), pair(9)]})
    assert texts(prepared.train) == ["q001a001", "plain"]
    assert texts(prepared.eval) == ["q007a007", "q008a008", "q009a009"]
    assert prepared.eval_spans == {"x": range(1), "y": range(1, 3)}
    assert [(s.name, s.split) for s in prepared.report.sources] == [
        ("one", "train"), ("two", "train"), ("x", "eval"), ("y", "eval"),
    ]  # fmt: skip
    assert prepared.report.of("train").read == 2


def test_first_uses_rows_from_the_start(run, tmp_path):
    path = written(tmp_path / "a.jsonl", [pair(i) for i in range(9)])
    prepared = run({"a": {"path": path, "first": 3}})
    assert texts(prepared.train) == ["q000a000", "q001a001", "q002a002"]
    assert prepared.report.read == 3


def test_columns_are_renamed_first(run, tmp_path):
    path = written(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}])
    prepared = run({"a": {"path": path, "columns": {"question": "prompt", "answer": "completion"}}})
    assert texts(prepared.train) == ["qa"]
    path = written(tmp_path / "b.jsonl", [{"question": "q", "prompt": "p", "completion": "c"}])
    with pytest.raises(DataError, match=r"b\.jsonl:1: two columns have one name after renaming"):
        run({"b": {"path": path, "columns": {"question": "prompt"}}})


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "messages"),
        ({"instruction": "q", "output": "a"}, "alpaca"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt"),
        ({"prompt": "q", "completion": "a"}, "prompt-completion"),
        ({"text": "qa"}, "text"),
    ],
)
def test_formats_are_recognised_by_the_first_rows_columns(run, row, name):
    prepared = run([row])
    assert prepared.report.sources[0].format == name
    assert texts(prepared.train) == ["qa"]


def test_the_format_with_more_columns_is_meant_and_a_tie_names_both_and_the_mend(run, tmp_path):
    prepared = run([{"instruction": "q", "output": "a", "text": "t"}])
    assert prepared.report.sources[0].format == "alpaca"
    row = {"prompt": "q", "text": "t"}
    with pytest.raises(UsageError, match=r"jsonl:1: the columns \(prompt, text\) fit the formats prompt-completion "
                       r"and text: choose one with --data.sources.data.format"):  # fmt: skip
        run([row])
    prepared = run({"data": {"path": written(tmp_path / "a.jsonl", [row]), "format": "text"}})
    assert texts(prepared.train) == ["t"]


def test_columns_of_no_format_name_those_found_and_the_formats_known(run):
    with pytest.raises(
        UsageError, match=r"no format fits the columns \(body, id\).*alpaca: instruction or instruction\+output"
    ):
        run([{"body": "x", "id": 1}])


def test_an_unknown_format_suggests_the_nearest(run, tmp_path):
    with pytest.raises(UsageError, match="No format is named 'alpacca'. Did you mean 'alpaca'?"):
        run({"a": {"path": written(tmp_path / "a.jsonl", [pair(1)]), "format": "alpacca"}})


def test_a_format_of_another_package_is_recognised_alike(run, third_party):
    prepared = run([{"question": "q", "answer": "a"}], registry=third_party)
    assert prepared.report.sources[0].format == "qa"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("chatterbott", "no such file, and no data set of that name. Did you mean 'chatterbot'?"),
        ("rows.xlsx", r"rows.xlsx: no reader for such a file. Known endings: .csv, .json, .jsonl, .ndjson, .parquet"),
        ("missing.jsonl", "missing.jsonl: no such file."),
        ("jsonl", "no such file, and no data set of that name"),
        ("", r"data.sources.a.path: no file or data set is named"),
        ("/", "is a folder, not a file"),
    ],
)
def test_sources_that_cannot_be_found(run, path, problem):
    with pytest.raises((UsageError, DataError), match=problem):
        run({"a": {"path": path}})


def test_two_readers_of_one_ending_are_named(run, third_party):
    with pytest.raises(UsageError, match="another and tk-plugin-files both read .jsonl files: disable one"):
        run([pair(1)], registry=with_component(third_party, "datasets", DatasetSpec(
            name="other", target=dict, suffixes=("jsonl",))))  # fmt: skip


def test_a_named_data_set_with_options(run):
    prepared = run({"talk": {"path": "chatterbot"}}, hold_out=100)
    assert len(prepared.train) > 900
    assert len(prepared.eval) == 100
    (source, held) = prepared.report.sources
    assert (source.format, held.split) == ("messages", "held out")
    assert source.notes[0].endswith("repeated conversations are used once")


def test_no_source_at_all(run):
    with pytest.raises(UsageError, match="data.sources: no data is named"):
        run({})


# --- bad rows ---

BAD = [
    pair(0),
    "{broken",
    {"prompt": "q"},
    "[1]",
    pair(4),
    {"prompt": "", "completion": "x"},
    {"prompt": [{"role": "user", "content": "q"}], "completion": []},
]


def test_the_first_bad_row_stops_before_training(run, tmp_path):
    with pytest.raises(DataError, match=r"data\.jsonl:2: invalid JSON at column 2"):
        run(BAD)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("bad", ["{broken", "[1]", '"x"', '{"prompt": 1, "completion": "x"}'])
def test_a_bad_first_row_stops_with_its_line(run, bad):
    with pytest.raises(DataError, match=r"data\.jsonl:1: "):
        run([bad, pair(1)])


def test_skipped_rows_are_counted_by_reason_and_written_aside(run, tmp_path):
    prepared = run([*BAD, {"prompt": "q"}], on_error="skip")
    assert texts(prepared.train) == ["q000a000", "q004a004"]
    (source,) = prepared.report.sources
    assert (source.read, source.used) == (8, 2)
    assert sum(source.skipped.values()) == 6
    assert source.skipped["no assistant turn"] == 2
    assert source.skipped["invalid JSON at column N: Expecting property name enclosed in double quotes."] == 1
    assert prepared.rejects.count == 6
    prepared.rejects.write(tmp_path / "run" / "rejects.jsonl")
    aside = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    aside.sort(key=lambda row: row["origin"])
    assert [row["origin"].rpartition(":")[2] for row in aside] == ["2", "3", "4", "6", "7", "8"]
    assert aside[1] == {
        "origin": f"{tmp_path}/data.jsonl:3",
        "reason": "no assistant turn",
        "row": {"prompt": "q"},
    }
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["rejects.jsonl"]


def test_nothing_half_written_is_left_where_reading_fails(run, tmp_path):
    with pytest.raises(DataError, match="no row to train on"):
        run(["{broken", {"prompt": "q", "completion": ""}], on_error="skip")
    assert not (tmp_path / "run").exists()


def test_a_row_that_the_method_refuses_is_found_within_its_batch(run):
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]} for _ in range(600)]
    rows[555] = {"messages": rows[555]["messages"][:1]}
    with pytest.raises(DataError, match=r"^[^ ]*data\.jsonl:556: no assistant turn$"):
        run(rows)
    prepared = run(rows, on_error="skip")
    assert len(prepared.train) == 599
    assert prepared.report.skipped == {"no assistant turn": 1}


def test_mistakes_of_the_program_are_not_taken_for_bad_rows(tmp_path):
    class Broken(Bytes):
        def encode(self, samples, template, limit):
            raise TypeError("a bug")

    data = DataSection(sources={"a": SourceSection(path=written(tmp_path / "a.jsonl", [pair(1)]))}, on_error="skip")
    with pytest.raises(TypeError, match="a bug"):
        prepare_data(REGISTRY, data, EvalSection(), None, Broken())


# --- length ---


def test_longer_rows_are_counted_where_they_are_dropped(run):
    prepared = run([pair(1), pair(2, "long" * 9), pair(3)], max_length=10, truncation="drop")
    assert texts(prepared.train) == ["q001a001", "q003a003"]
    assert prepared.report.skipped == {"too long": 1}
    assert prepared.limit == Limit(10, "drop")


def test_longer_rows_stop_the_run_unless_something_else_is_asked_for(run):
    with pytest.raises(DataError, match=r"data\.jsonl:2: 44 tokens, more than max_length 10"):
        run([pair(1), pair(2, "long" * 9)], max_length=10)


def test_where_all_rows_are_too_long_the_shortest_is_told(run):
    with pytest.raises(DataError, match=r"longer than max_length 3. The shortest has 8 tokens \(.*data\.jsonl:2\): set "
                       r"data.max_length to that or more"):  # fmt: skip
        run([pair(1, "x"), pair(2)], max_length=3, truncation="drop")


def test_the_callers_limit_counts_where_the_config_has_none(tmp_path):
    data = DataSection(sources={"a": SourceSection(path=written(tmp_path / "a.jsonl", [pair(1)]))})
    assert prepare_data(REGISTRY, data, EvalSection(), None, Bytes(), max_length=9).limit.max_length == 9
    asked = replace(data, max_length=8)
    assert prepare_data(REGISTRY, asked, EvalSection(), None, Bytes(), max_length=9).limit.max_length == 8


# --- held-out rows ---


@pytest.mark.parametrize(("hold_out", "count"), [(0.2, 8), (5, 5), (0.001, 1)])
def test_held_out_rows_are_never_trained_on(run, hold_out, count):
    sources = {"a": [pair(i) for i in range(30)], "b": [pair(i) for i in range(30, 40)]}
    prepared = run(sources, hold_out=hold_out)
    train, held = texts(prepared.train), texts(prepared.eval)
    assert len(held) == count
    assert sorted(train + held) == sorted(texts(run(sources).train))
    assert prepared.eval_spans == {"held_out": range(count)}
    assert prepared.report.of("train").read + prepared.report.of("held out").read == 40


def test_held_out_rows_depend_on_the_seed_alone(run):
    rows = [pair(i) for i in range(50)]
    first, again, other = (texts(run(rows, hold_out=10, seed=seed).eval) for seed in (0, 0, 1))
    assert first == again != other
    assert first != sorted(first)


def test_held_out_rows_come_after_the_evaluation_sources(run):
    prepared = run([pair(i) for i in range(10)], evals={"x": [pair(100)]}, hold_out=2)
    assert prepared.eval_spans == {"x": range(1), "held_out": range(1, 3)}
    assert texts(prepared.eval)[0] == "q100a100"


@pytest.mark.parametrize(
    ("hold_out", "problem"),
    [(3, "takes 3 rows, and the training data has 3: nothing is left"), (1.5, "1.5 is neither a number of rows nor")],
)
def test_impossible_hold_outs(run, hold_out, problem):
    with pytest.raises((DataError, UsageError), match=problem):
        run([pair(i) for i in range(3)], hold_out=hold_out)


def test_the_prompts_of_held_out_rows_are_at_hand(run):
    talk = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "t"},
    ]
    prepared = run([pair(1)], evals={"x": [{"messages": talk, "solution": 3}], "y": [pair(2)], "z": [{"text": "t"}]})
    prompts = prepared.eval_prompts(9)
    assert [[m.text for m in p.sample.messages] for p in prompts] == [["s", "q", "a", "r"], ["q002"]]
    assert [p.reference.text for p in prompts] == ["b", "a002"]
    assert prompts[0].sample.extras == {"solution": 3}
    assert len(prepared.eval_prompts(1)) == 1
    assert prepared.eval_prompts(0) == []


def test_progress_is_told(run):
    told = []
    run({"a": [pair(i) for i in range(600)]}, progress=lambda *what: told.append(what))
    assert told == [("a", 512, 600), ("a", 600, 600)]


# --- components of another package ---


@dataclass
class Qa:
    def __call__(self, row):
        from tk.sample import Message, Sample

        return Sample((Message("user", row["question"]), Message("assistant", row["answer"])))


class _Plugin:
    @hookimpl
    def tk_formats(self):
        yield FormatSpec(name="qa", target=Qa, columns=(("question", "answer"),))


def with_component(registry, kind, spec):
    from tk.registry import Component

    added = Component(registry.kind(kind), spec, "another", "1")
    components = {**registry.components, kind: [*registry.components[kind], added]}
    return Registry(registry.kinds, components, registry.plugins, registry.disabled)


@pytest.fixture
def third_party():
    return with_component(REGISTRY, "formats", next(iter(_Plugin().tk_formats())))
