"""Options of data sets, as a source gives them."""

import pytest

from tk.errors import UsageError
from tk.plugins import load
from tk.rows import dataset_options, reader_of

REGISTRY = load()


def test_options_become_the_data_sets_own():
    component = REGISTRY.get("datasets", "chatterbot")
    (options,) = dataset_options(component, "a", {"language": "german", "topics": ["food"]})
    assert (options.language, options.topics) == ("german", ["food"])
    assert dataset_options(REGISTRY.get("datasets", "jsonl"), "a", {}) == ()


@pytest.mark.parametrize(
    ("name", "given", "problem"),
    [
        ("chatterbot", {"langage": "german"}, r"data.sources.a.options.langage: .* Did you mean 'language'?"),
        ("chatterbot", {"topics": 3}, r"data.sources.a.options: Expected `array`, got `int` - at `\$.topics`"),
        ("jsonl", {"x": 1}, "data.sources.a.options: jsonl has no options"),
    ],
)
def test_wrong_options_are_named(name, given, problem):
    with pytest.raises(UsageError, match=problem):
        dataset_options(REGISTRY.get("datasets", name), "a", given)


@pytest.mark.parametrize(
    ("path", "name", "opened"),
    [
        ("chatterbot", "chatterbot", ""),
        ("tk-plugin-chatterbot:chatterbot", "chatterbot", ""),
        ("./a.JSONL", "jsonl", "./a.JSONL"),
        ("data/a.tsv", "csv", "data/a.tsv"),
        ("a.b.parquet", "parquet", "a.b.parquet"),
    ],
)
def test_a_path_is_a_data_sets_name_or_a_file_with_a_known_ending(path, name, opened):
    component, what = reader_of(REGISTRY, path)
    assert (component.name, what) == (name, opened)
