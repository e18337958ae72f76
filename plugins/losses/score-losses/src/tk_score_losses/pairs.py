"""Reward models: the better answer of a pair has the higher score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from tk.contracts import Reduce, Rows, Stat
from tk_score_losses.options import BradleyTerryOptions
from tk_tensor.pairs import paired


@dataclass(frozen=True)
class BradleyTerry:
    """-log σ(s_chosen - s_rejected - margin) + c · (s_chosen + s_rejected)².

    Bradley–Terry with the margins of Llama 2 (arXiv 2307.09288, §3.2.2), centred as in arXiv 2312.09244.
    fields: `margin` [P].
    """

    options: BradleyTerryOptions = field(default_factory=BradleyTerryOptions)
    unit: ClassVar[Literal["pair"]] = "pair"
    wants: ClassVar[tuple[Stat, ...]] = (Stat("score"),)

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        chosen, rejected = paired(stats["score"][:, 0])
        loss = -logsigmoid(chosen - rejected - fields["margin"])
        return loss + self.options.centring * (chosen + rejected).square() if self.options.centring else loss
