"""Classification and regression: the scores of a sequence against its labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from tk.contracts import Reduce, Rows, Stat
from tk_score_losses.options import CrossEntropyOptions

SCORES = (Stat("score"),)


@dataclass(frozen=True)
class CrossEntropy:
    """Of one class a sequence. fields: `labels` [R], class indices."""

    options: CrossEntropyOptions = field(default_factory=CrossEntropyOptions)
    unit: ClassVar[Literal["sequence"]] = "sequence"
    wants: ClassVar[tuple[Stat, ...]] = SCORES

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        return F.cross_entropy(
            stats["score"], fields["labels"], reduction="none", label_smoothing=self.options.label_smoothing
        )


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Of several labels that each hold or not: the mean over them. fields: `labels` [R, labels], 0 or 1."""

    unit: ClassVar[Literal["sequence"]] = "sequence"
    wants: ClassVar[tuple[Stat, ...]] = SCORES

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        labels = fields["labels"].to(stats["score"])
        return F.binary_cross_entropy_with_logits(stats["score"], labels, reduction="none").mean(1)


@dataclass(frozen=True)
class MeanSquared:
    """The mean over the outputs of the squared difference. fields: `labels` [R, labels], numbers."""

    unit: ClassVar[Literal["sequence"]] = "sequence"
    wants: ClassVar[tuple[Stat, ...]] = SCORES

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        return (stats["score"] - fields["labels"]).square().mean(1)
