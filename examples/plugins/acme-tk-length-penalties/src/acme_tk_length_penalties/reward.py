"""The reward `length-penalty`: the chosen penalty, over the answers to each prompt."""

from __future__ import annotations

from collections.abc import Sequence

from acme_tk_length_penalties.contract import LengthPenalty
from tk.contracts import Scored


class PenaltyReward:
    """A Reward (tk.contracts); None where tokens are not known. `penalty` is what the run's section chooses."""

    def __init__(self, penalty: LengthPenalty) -> None:
        self.penalty = penalty

    async def __call__(self, batch: Scored) -> Sequence[float | None]:
        scores: list[float | None] = [None] * len(batch.completions)
        groups: dict[str, list[int]] = {}
        for index in range(len(batch.completion_ids)):
            groups.setdefault(repr(batch.prompts[index]), []).append(index)
        for group in groups.values():
            lengths = [len(batch.completion_ids[index]) for index in group]
            for index, value in zip(group, self.penalty(lengths), strict=True):
                scores[index] = value
        return scores
