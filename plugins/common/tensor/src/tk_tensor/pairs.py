"""What losses on preference pairs share. A pair's samples follow each other: chosen, rejected, chosen, rejected …"""

from __future__ import annotations

from torch import Tensor

from tk.contracts import Reduce, Rows, Stat

AGAINST_REFERENCE = (Stat("logps"), Stat("logps", role="reference"))
"""The statistics of losses that hold the policy against a reference."""


def paired(values: Tensor) -> tuple[Tensor, Tensor]:
    """[2P] values of samples -> those of the chosen and of the rejected ones, [P] each."""
    chosen, rejected = values.view(-1, 2).unbind(1)
    return chosen, rejected


def log_ratios(stats: Rows, fields: Rows, reduce: Reduce) -> tuple[Tensor, Tensor]:
    """log π(y|x) - log π_ref(y|x) of the chosen and of the rejected answers, [P] each, in nats."""
    return paired(reduce(fields["token_weights"] * (stats["logps"] - stats["reference.logps"])))


def token_counts(fields: Rows, reduce: Reduce) -> tuple[Tensor, Tensor]:
    """Trained tokens of the chosen and of the rejected answers, [P] each."""
    return paired(reduce(fields["token_weights"]))
