"""The reward's shape, its units, and what every reward must bear."""

import asyncio

import pytest
from acme_tk_length.options import LengthOptions
from acme_tk_length.reward import Length

from tk.contracts import Scored
from tk.sample import Message
from tk.testing import check_reward


def score(batch, **options):
    return list(asyncio.run(Length(LengthOptions(**options))(batch)))


def of_tokens(*lengths):
    messages = [Message("assistant", "x")] * len(lengths)
    return Scored([()] * len(lengths), messages, completion_ids=[range(length) for length in lengths])


def test_one_within_the_budget_then_falling_to_zero():
    assert score(of_tokens(0, 10, 12, 15, 20, 99), budget=10, slack=10) == [1.0, 1.0, 0.8, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(("unit", "wanted"), [("words", 0.5), ("characters", 0.0)])
def test_units_of_text(unit, wanted):
    batch = Scored([()], [Message("assistant", "two words")])
    assert score(batch, unit=unit, budget=1, slack=2) == [wanted]


def test_unknown_tokens_are_not_scored():
    assert score(Scored([()], [Message("assistant", "text")])) == [None]


@pytest.mark.parametrize("unit", ["tokens", "words", "characters"])
def test_it_bears_every_completion(unit):
    check_reward(Length(LengthOptions(unit=unit)))
