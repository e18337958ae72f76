"""Compact storage returns what was put in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tk.contracts import Example, Medium
from tk_data.examples import ExampleSet, compact, spans


def example(ids, **values):
    return Example(len(ids), {"ids": ids, **values}, {"loss": float(len(ids))}, "a.jsonl:3")


numbers = st.lists(st.integers(-(2**40), 2**40), max_size=5)
floats = st.lists(st.floats(width=32, allow_nan=False), max_size=5)


@given(rows=st.lists(st.tuples(numbers, floats, st.text(max_size=6)), max_size=30))
def test_values_lengths_weights_and_origins_come_back(rows):
    given_ = [Example(len(a), {"ids": a, "w": b}, {"t": len(a) / 3, "u": 1.0}, origin) for a, b, origin in rows]
    stored = ExampleSet(given_)
    assert len(stored) == len(given_)
    for was, now in zip(given_, stored, strict=True):
        assert (now.length, now.origin) == (was.length, was.origin)
        assert dict(now.weights) == dict(was.weights)
        assert now.values["ids"].tolist() == was.values["ids"]
        assert now.values["w"].tolist() == was.values["w"]
    assert stored.lengths.tolist() == [len(a) for a, _, _ in rows]
    assert stored.totals().get("t", 0.0) == pytest.approx(sum(len(a) / 3 for a, _, _ in rows))


def test_many_rows_are_joined_without_loss():
    stored = ExampleSet(example([i] * (i % 7)) for i in range(20_000))
    assert [stored[i].values["ids"].tolist() for i in (0, 4095, 4096, 19_999)] == [[], [], [4096], []]
    assert stored[8193].values["ids"].tolist() == [8193] * 3


def test_tokens_take_four_bytes():
    stored = ExampleSet(example(list(range(1000))) for _ in range(100))
    assert stored[0].values["ids"].dtype == np.int32
    assert stored.nbytes < 100 * 1000 * 4 * 1.02


def test_what_is_no_list_of_numbers_comes_back_as_it_was():
    picture = np.zeros((2, 3), dtype=np.uint8)
    values = {"picture": picture, "name": "x", "nested": [[1], [2, 3]], "words": ["a"], "score": 0.1, "none": None}
    stored = ExampleSet([Example(1, values, {}), Example(1, values, {})])[1]
    assert stored.values["picture"] is picture
    assert {k: v for k, v in stored.values.items() if k != "picture"} == {
        k: v for k, v in values.items() if k != "picture"
    }


def test_a_column_may_change_its_kind_at_any_row():
    values = [[1, 2]] * 5000 + [None, [0.5]] + [[3]] * 5000
    stored = ExampleSet(Example(1, {"v": value}, {}) for value in values)
    found = [stored[i].values["v"] for i in range(len(stored))]
    assert [v if v is None else v.tolist() for v in found] == values


def test_examples_may_have_different_values():
    stored = ExampleSet([example([1]), example([2], image=[7]), example([3])])
    assert [sorted(e.values) for e in stored] == [["ids"], ["ids", "image"], ["ids"]]
    assert stored[-1].values["ids"].tolist() == [3]
    with pytest.raises(IndexError):
        stored[3]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([1, 2], np.int32),
        ([2**31], np.int64),
        ([0.5, 1], np.float32),
        ([True], np.bool_),
        (np.array([1.0], dtype=np.float64), np.float64),
    ],
)
def test_number_types(value, dtype):
    assert compact(value).dtype == dtype
    assert ExampleSet([Example(1, {"v": value}, {})])[0].values["v"].dtype == dtype


def test_spans_follow_one_another():
    assert spans({"a": 2, "b": 0, "c": 3}) == {"a": range(2), "b": range(2, 2), "c": range(2, 5)}


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_a_value_that_comes_later_stands_with_its_example(kinds):
    stored = ExampleSet(example([i], **({"more": [i]} if kind else {})) for i, kind in enumerate(kinds))
    stored.add_value("found", [np.full(i % 3, i, dtype=np.float32) for i in range(len(kinds))])
    for i, kind in enumerate(kinds):
        assert stored[i].values["found"].tolist() == [float(i)] * (i % 3)
        assert ("more" in stored[i].values) == kind
    with pytest.raises(ValueError, match="values 'found' for"):
        stored.add_value("found", [])


def test_media_in_the_rows_lie_on_disk_and_come_back():
    urls = [f"data:;base64,{'é' * i}" for i in range(5)]
    media = [[Medium("image", url, (1, 1)), Medium("image", "/a.png", (2, 3))] for url in urls]
    stored = ExampleSet(Example(1, {"ids": [1]}, {}, media=own) for own in media)
    assert not any("base64" in medium.source for own in stored._media.values() for medium in own)
    for _ in range(2):
        assert [stored[i].media for i in (4, 0, 3, 1, 2)] == [media[i] for i in (4, 0, 3, 1, 2)]
    again = ExampleSet(stored)
    assert [example.media for example in again] == media
