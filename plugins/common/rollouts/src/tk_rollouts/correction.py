"""How far an engine that has sampled answers is from the policy, and what each token counts for on that account."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tk.contracts import Reduce
from tk.errors import TkError
from tk_rollouts.options import CorrectionOptions


def counted_of(
    old: Tensor, fields: Mapping[str, Tensor], reduce: Reduce, options: CorrectionOptions
) -> tuple[Tensor | float, dict[str, Tensor]]:
    """What each token [N] counts for, and of each how far the policy was from the engine, for the log.

    old: log-probs [N] of the policy when the engine sampled. fields: a batch's; `engine_logps` are the engine's.
    Raises TkError where tokens are to be weighed, and the engine has told none.
    """
    how = options.correction
    if "engine_logps" not in fields:
        if how != "none" and bool(fields["token_weights"].any()):
            raise TkError(f"method.correction {how}: the run's engine gives no log-probs of what it has sampled.")
        return 1.0, {}
    weights = fields["token_weights"]
    apart = (old - fields["engine_logps"]) * weights
    metrics = {"engine_gap": apart.abs(), "engine_ratio": apart.exp() * weights}
    if how == "none":
        return 1.0, metrics
    bounds = options.correction_min, options.correction_max
    return correction(apart, fields["rows"], reduce, how, *bounds), metrics


def correction(
    log_ratio: Tensor, rows: Tensor, reduce: Reduce, how: str, least: float | None, most: float | None
) -> Tensor:
    """What each token counts for, given how much more probable it was to the policy than to the engine that sampled it.

    log_ratio: of tokens [N]. how: CorrectionOptions.correction (truncated importance sampling,
    https://fengyao.notion.site/off-policy-rl, and masking of what lies outside, arXiv 2510.18855).
    """
    of_answers = how.startswith("sequence_")
    ratio = (reduce(log_ratio).index_select(0, rows) if of_answers else log_ratio).exp()
    if how.endswith("_truncate"):
        return ratio.clamp(least, most)
    outside = torch.zeros_like(ratio, dtype=torch.bool)
    if least is not None:
        outside |= ratio < least
    if most is not None:
        outside |= ratio > most
    return ratio.masked_fill(outside, 0.0)
