"""The default source: the same windows for any world, exact resume, fillers, and a background that ends."""

import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tk.contracts import Batch, Example, Layout, World
from tk.errors import DataError, TkError, UsageError
from tk_data.background import in_background, made_ahead
from tk_data.evaluate import eval_batches
from tk_data.examples import ExampleSet
from tk_data.layout import layout_for
from tk_data.loader import Loader

LAYOUT = Layout(pad_id=0)


def examples(lengths):
    return ExampleSet(Example(n, {"ids": [i + 1] * n}, {"loss": float(n)}, f"f:{i}") for i, n in enumerate(lengths))


def collate(rows, layout):
    """Rows padded on the right, as numpy; `ids` of an example are all its number, from 1."""
    joined = [np.concatenate([e.values["ids"] for e in row]) for row in rows]
    ids = np.full((len(rows), max(map(len, joined))), layout.pad_id)
    for row, tokens in zip(ids, joined, strict=True):
        row[: len(tokens)] = tokens
    total = sum(e.length for row in rows for e in row)
    return Batch({"input_ids": ids}, {}, {"loss": float(total)}, sum(map(len, rows)), total)


def loader(lengths, rank=0, size=1, layout=LAYOUT, **settings_):
    base = {"batch_size": 4, "micro_batch_size": 2, "seed": 3}
    return Loader(examples(lengths), collate, layout, world=World(rank, size, "cpu"), **{**base, **settings_})


def rows_of(window):
    """The rows of a window as multiset of their tokens, fillers left out."""
    rows = (tuple(row[row > 0].tolist()) for b in window.batches if not b.filler for row in b.inputs["input_ids"])
    return Counter(rows)


def image(window):
    batches = [(b.inputs["input_ids"].tolist(), dict(b.weights), b.rows, b.tokens, b.filler) for b in window.batches]
    return batches, window.cursor, window.epoch


sizes = st.lists(st.integers(1, 12), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    lengths=sizes, world=st.integers(1, 4), micro=st.integers(1, 5), batch=st.integers(1, 9), packing=st.booleans(),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_windows_hold_the_same_rows_for_any_world_and_micro_batch(lengths, world, micro, batch, packing, seed):
    layout = Layout(pad_id=0, packing=packing)
    shared = {"layout": layout, "max_length": 12, "batch_size": batch, "epochs": 2, "seed": seed}
    alone = list(loader(lengths, micro_batch_size=batch, **shared).windows())
    ranks = [list(loader(lengths, r, world, micro_batch_size=micro, **shared).windows()) for r in range(world)]
    seen = Counter()
    for reference, *windows in zip(alone, *ranks, strict=True):
        assert sum(map(rows_of, windows), Counter()) == rows_of(reference)
        assert len({len(window.batches) for window in windows}) == 1
        assert {(str(w.cursor), w.epoch) for w in windows} == {(str(reference.cursor), reference.epoch)}
        weights = sum(b.weights["loss"] for w in windows for b in w.batches)
        assert weights == sum(b.weights["loss"] for b in reference.batches)
        seen += rows_of(reference)
    tokens = Counter(token for row, count in seen.items() for token in row for _ in range(count))
    assert tokens == Counter({i + 1: 2 * n for i, n in enumerate(lengths)})


@settings(max_examples=40, deadline=None)
@given(lengths=sizes, at=st.integers(0, 40), packing=st.booleans(), epochs=st.sampled_from([0.5, 1, 2.3]))
def test_resuming_goes_on_just_after_the_cursor(lengths, at, packing, epochs):
    make = {"layout": Layout(pad_id=0, packing=packing), "max_length": 12, "epochs": epochs}
    whole = [image(w) for w in loader(lengths, 1, 2, **make).windows()]
    at %= len(whole)
    resumed = [image(w) for w in loader(lengths, 1, 2, **make).windows(whole[at][1])]
    assert resumed == whole[at + 1 :]


def test_an_epoch_ends_with_a_short_window_and_none_mixes_epochs():
    windows = list(loader([5] * 10, epochs=2).windows())
    assert [sum(b.rows for b in w.batches) for w in windows] == [4, 4, 2, 4, 4, 2]
    assert [w.epoch for w in windows] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    first, second = (sum(map(rows_of, windows[i : i + 3]), Counter()) for i in (0, 3))
    assert first == second
    assert [image(w)[0] for w in windows[:3]] != [image(w)[0] for w in windows[3:]]


@pytest.mark.parametrize(("epochs", "count"), [(1, 3), (0.01, 1), (0.5, 2), (2 / 3, 2), (1.5, 5), (3, 9), (1.1, 4)])
def test_fractions_of_an_epoch_are_rounded_up_to_windows(epochs, count):
    source = loader([5] * 10, epochs=epochs)
    assert len(source) == count == len(list(source.windows()))


def test_steps_override_epochs():
    source = loader([5] * 10, epochs=9, steps=7)
    windows = list(source.windows())
    assert len(source) == len(windows) == 7
    assert [w.cursor["epoch"] for w in windows] == [0, 0, 0, 1, 1, 1, 2]


def test_without_shuffling_the_order_is_that_of_the_data():
    windows = list(loader([1] * 6, shuffle=False).windows())
    assert [sorted(rows_of(w)) for w in windows] == [[(1,), (2,), (3,), (4,)], [(5,), (6,)]]


def test_a_rank_without_rows_gets_fillers_that_count_for_nothing():
    windows = [next(iter(loader([3, 5, 7], rank, 4, batch_size=3).windows())) for rank in range(4)]
    batches = [window.batches for window in windows]
    assert [[b.filler for b in each] for each in batches] == [[False], [False], [False], [True]]
    (idle,) = batches[3]
    assert (dict(idle.weights), idle.tokens, idle.rows) == ({"loss": 0.0}, 0, 1)
    assert idle.inputs["input_ids"].tolist() == [[1, 1, 1]]


def test_rows_of_like_length_share_a_micro_batch():
    (window,) = loader([1, 9, 1, 9], shuffle=False).windows()
    assert sorted(b.inputs["input_ids"].shape for b in window.batches) == [(2, 1), (2, 9)]


def test_accumulation_is_what_a_full_window_takes():
    assert loader([1], batch_size=16, micro_batch_size=4).accumulation == 4
    assert loader([1], 0, 2, batch_size=16, micro_batch_size=4).accumulation == 2
    assert loader([1], 0, 4, batch_size=2, micro_batch_size=4).accumulation == 1


def test_a_cursor_of_another_order_is_refused():
    cursor = next(iter(loader([5] * 10).windows())).cursor
    with pytest.raises(TkError, match="10 examples, seed 3, batch size 4, and is 9 examples, seed 3, batch size 4"):
        loader([5] * 9).windows(cursor)
    with pytest.raises(TkError, match="another one"):
        loader([5] * 10, seed=4).windows(cursor)


def test_the_cursor_belongs_to_the_window_that_was_read_and_not_to_those_made_ahead():
    source = loader([5] * 40)
    read = source.windows()
    cursors = [next(read).cursor for _ in range(3)]
    assert [(c["epoch"], c["window"], c["done"]) for c in cursors] == [(0, 0, 1), (0, 1, 2), (0, 2, 3)]
    read.close()
    assert image(next(iter(source.windows(cursors[-1])))) == image(list(source.windows())[3])


def test_impossible_settings():
    with pytest.raises(UsageError, match="no example"):
        loader([])
    with pytest.raises(UsageError, match=r"data\.max_length"):
        loader([1], layout=Layout(pad_id=0, packing=True))


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("tk-data")]


def test_closing_early_ends_the_threads():
    read = loader([5] * 400).windows()
    next(read)
    assert len(threads()) == 2  # what plans windows, and what makes them
    read.close()
    assert not threads()


def test_errors_of_the_background_are_raised_after_the_items_before_them():
    def items():
        yield 1
        yield 2
        raise KeyError("broken")

    read = in_background(items, 4)
    assert [next(read), next(read)] == [1, 2]
    with pytest.raises(KeyError, match="broken"):
        next(read)
    assert not threads()


def test_the_background_makes_no_more_than_asked_ahead():
    made = []
    read = in_background(lambda: (made.append(i) or i for i in range(100)), 2)
    assert [next(read) for _ in range(3)] == [0, 1, 2]
    read.close()
    assert len(made) <= 3 + 2 + 1


@settings(deadline=None)
@given(lengths=sizes, batch_size=st.integers(1, 5), world=st.integers(1, 4))
def test_evaluation_sees_every_example_once(lengths, batch_size, world):
    stored, packed = examples(lengths), Layout(pad_id=0, packing=True)
    seen, counts = [], set()
    for rank in range(world):
        batches = list(eval_batches(stored, collate, packed, batch_size, World(rank, world, "cpu")))
        counts.add(len(batches))
        for batch, indices in batches:
            assert batch.filler == (not indices)
            assert [row[0] - 1 for row in batch.inputs["input_ids"].tolist()] == list(indices) or batch.filler
            assert batch.weights["loss"] == sum(lengths[i] for i in indices)
            seen += indices
    assert sorted(seen) == list(range(len(lengths)))
    assert len(counts) == 1


def test_the_layout_comes_from_config_and_tokenizer():
    from types import SimpleNamespace

    from tk.config.sections import DataSection

    tokenizer = SimpleNamespace(pad_token_id=None, eos_token_id=[7, 8])
    assert layout_for(DataSection(packing=True), tokenizer, 8) == Layout(7, "right", True, 8)
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=7)
    assert layout_for(DataSection(padding_side="left"), tokenizer) == Layout(0, "left")


@pytest.mark.parametrize("at", [0, 5])
def test_several_threads_make_the_same_windows_in_the_same_order(at):
    lengths = [1 + i % 7 for i in range(40)]
    alone = list(loader(lengths, epochs=2).windows())
    cursor = alone[at - 1].cursor if at else None
    made = list(loader(lengths, epochs=2, workers=3).windows(cursor))
    assert [image(w) for w in made] == [image(w) for w in alone[at:]]


def test_several_threads_work_side_by_side():
    """Each waits until the other has begun."""
    meeting = threading.Barrier(2, timeout=20)
    assert list(made_ahead(lambda place: (meeting.wait() >= 0, place), range(8), 2)) == [(True, i) for i in range(8)]


def test_what_a_thread_raises_is_raised_in_the_place_of_its_item():
    def picky(rows, layout):
        if rows[0][0].origin == "f:5":
            raise DataError("f:5: unreadable.")
        return collate(rows, layout)

    made = Loader(examples([2] * 9), picky, LAYOUT, world=World(0, 1, "cpu"), batch_size=1, micro_batch_size=1,
                  shuffle=False, workers=3)  # fmt: skip
    windows = made.windows()
    assert len([next(windows) for _ in range(5)]) == 5
    with pytest.raises(DataError, match=r"^f:5: unreadable\.$"):
        next(windows)
    assert threads() == []
