"""The global order of training: every example once an epoch, whatever the sizes, the packing and the world."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tk_data.evaluate import eval_plan
from tk_data.plans import deal, epoch_order, pack, shuffled, single, window_count

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@given(n=st.integers(0, 200), seed=st.integers(0, 2**40), epoch=st.integers(0, 9))
def test_an_order_holds_every_example_once_and_depends_on_seed_and_epoch_only(n, seed, epoch):
    order = epoch_order(n, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert order.tolist() == epoch_order(n, seed, epoch).tolist()


def test_orders_of_epochs_and_seeds_differ():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert epoch_order(4, 7, 3, shuffle=False).tolist() == [0, 1, 2, 3]


def test_the_order_is_the_same_on_every_machine():
    assert shuffled(8, 0, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]


def test_every_place_is_equally_likely():
    firsts = np.bincount([shuffled(5, seed)[0] for seed in range(2000)], minlength=5)
    assert firsts.min() > 330
    assert firsts.max() < 470


@given(lengths=lengths, room=st.integers(40, 100), seed=st.integers(0, 99), chunk=st.integers(1, 70))
def test_packing_keeps_every_example_once_within_the_rows_length(lengths, room, seed, chunk):
    order = epoch_order(len(lengths), seed, 0)
    rows = pack(lengths, order, room, chunk)
    members = [rows[i].tolist() for i in range(len(rows))]
    assert sorted(i for row in members for i in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[i] for i in row) <= room for row in members)
    again = pack(lengths, order, room, chunk)
    assert members == [again[i].tolist() for i in range(len(again))]


@given(lengths=lengths, room=st.integers(40, 100))
def test_packing_leaves_no_two_rows_that_would_fit_into_one(lengths, room):
    rows = pack(lengths, np.arange(len(lengths)), room)
    filled = sorted(sum(lengths[i] for i in rows[r]) for r in range(len(rows)))
    assert len(filled) < 2 or filled[0] + filled[1] > room


@given(lengths=lengths, room=st.integers(40, 100))
def test_packed_rows_and_their_members_follow_the_order(lengths, room):
    order = epoch_order(len(lengths), 1, 0)
    place = {example: i for i, example in enumerate(order.tolist())}
    rows = pack(lengths, order, room)
    members = [[place[i] for i in rows[r].tolist()] for r in range(len(rows))]
    assert all(row == sorted(row) for row in members)
    assert [row[0] for row in members] == sorted(row[0] for row in members)


def test_packing_is_dense_on_chat_like_lengths():
    drawn = np.random.default_rng(0).lognormal(4.5, 0.8, 20_000).clip(8, 1024).astype(int)
    rows = pack(drawn, epoch_order(len(drawn), 0, 0), 1024)
    assert drawn.sum() / (len(rows) * 1024) > 0.98


def test_an_example_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="example 1 has 9 tokens, more than a row of 8"):
        pack([3, 9], np.arange(2), 8)


@given(lengths=lengths, micro=st.integers(1, 9), world=st.integers(1, 9))
def test_dealing_gives_each_row_once_and_every_rank_as_many_batches(lengths, micro, world):
    dealt = deal(lengths, micro, world)
    assert len(dealt) == world
    assert len({len(batches) for batches in dealt}) == 1
    assert sorted(i for batches in dealt for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) <= micro for batches in dealt for batch in batches)
    rows = [sum(map(len, batches)) for batches in dealt]
    assert max(rows) - min(rows) <= 1
    assert len(dealt[0]) == -(-max(rows) // micro)


@given(lengths=lengths, world=st.integers(1, 8))
def test_dealing_balances_tokens(lengths, world):
    tokens = [sum(lengths[i] for batch in batches for i in batch) for batches in deal(lengths, 4, world)]
    assert max(tokens) - min(tokens) <= max(lengths)


@given(n=st.integers(0, 50), batch_size=st.integers(1, 60))
def test_windows_cover_an_epoch(n, batch_size):
    count = window_count(n, batch_size)
    sizes = [len(range(w * batch_size, min((w + 1) * batch_size, n))) for w in range(count)]
    assert sum(sizes) == n
    assert all(sizes)


@given(lengths=st.lists(st.integers(1, 40), max_size=60), batch_size=st.integers(1, 9), world=st.integers(1, 5))
def test_evaluation_sees_every_example_once_in_as_many_batches_a_rank(lengths, batch_size, world):
    plan = eval_plan(lengths, batch_size, world)
    assert len(plan) == world
    assert len({len(batches) for batches in plan}) == 1
    assert sorted(i for batches in plan for batch in batches for i in batch) == list(range(len(lengths)))


def test_single_rows():
    rows = single(np.array([2, 0, 1]))
    assert [rows[i].tolist() for i in range(len(rows))] == [[2], [0], [1]]
