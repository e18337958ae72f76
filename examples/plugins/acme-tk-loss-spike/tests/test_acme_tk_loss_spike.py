"""When the guard ends a run, and when it lets it go on."""

import math

import pytest
from acme_tk_loss_spike.callback import LossSpike
from acme_tk_loss_spike.options import LossSpikeOptions

from tk.testing import RecordedRun, check_callback

OPTIONS = LossSpikeOptions(factor=2, window=3, patience=1)


def stopped_at(losses, options=OPTIONS):
    run = RecordedRun(LossSpike(options))
    for loss in losses:
        run.advance({"loss": loss})
        if run.stopped:
            return run.step
    return None


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([1, 1, 1, 5, 1, 5, 1], None),
        ([1, 1, 1, 5, 5, 1], 5),
        ([1, 9, 9, 9, 9], None),
        ([1, 1, 1, math.nan, math.inf], 5),
        ([math.nan, math.nan], 2),
        ([3, 2, 1, 2.1, 2.2, 2.3], None),
    ],
    ids=["single spikes", "two in a row", "before the window is full", "not finite", "from the start", "slow rise"],
)
def test_it_stops_after_more_spikes_in_a_row_than_patience(losses, step):
    assert stopped_at(losses) == step


def test_a_resumed_run_decides_as_an_uninterrupted_one():
    losses = [{"loss": value} for value in (1.0, 1.1, 0.9, 4.0, 1.0, 4.0, 4.0, 1.0)]
    assert "loss-spike: 2 in a row" in check_callback(lambda: LossSpike(OPTIONS), losses)[0]
