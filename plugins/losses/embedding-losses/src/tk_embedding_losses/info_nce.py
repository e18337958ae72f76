"""InfoNCE with in-batch negatives over the whole optimizer step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tk.contracts import Reduce, Rows, Stat
from tk_embedding_losses.options import InfoNceOptions


@dataclass(frozen=True)
class InfoNce:
    """Cross entropy of each query's own positive among all passages (arXiv 1807.03748; 1705.00652).

    Matryoshka dimensions as in arXiv 2205.13147, the false-negative mask as in GISTEmbed (arXiv 2402.16829) with the
    model's own cosines.
    fields: `parts` [R], what each text is: 0 a query, 1 its positive, from 2 on its hard negatives.
    """

    options: InfoNceOptions = field(default_factory=InfoNceOptions)
    unit: ClassVar[Literal["query"]] = "query"
    scope: ClassVar[Literal["window"]] = "window"
    wants: ClassVar[tuple[Stat, ...]] = (Stat("pooled"),)

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        vectors, parts = stats["pooled"], fields["parts"]
        dims = self.options.dims or (vectors.shape[1],)
        return torch.stack([self._cut(vectors, parts, dim) for dim in dims]).mean(0)

    def _cut(self, vectors: Tensor, parts: Tensor, dim: int) -> Tensor:
        """[Q] losses of the vectors' first `dim` numbers."""
        short = F.normalize(vectors[:, :dim], dim=-1)
        queries, passages = short[parts == 0], short[parts > 0]
        own = torch.nonzero(parts[parts > 0] == 1).flatten()
        cosines = queries @ passages.T
        loss = F.cross_entropy(self._masked(cosines, own) / self.options.temperature, own, reduction="none")
        if not self.options.symmetric:
            return loss
        back = cosines[:, own].T / self.options.temperature
        order = torch.arange(len(queries), device=back.device)
        return (loss + F.cross_entropy(back, order, reduction="none")) / 2

    def _masked(self, cosines: Tensor, own: Tensor) -> Tensor:
        if self.options.margin is None:
            return cosines
        close = cosines > cosines.gather(1, own[:, None]) + self.options.margin
        return cosines.masked_fill(close.scatter(1, own[:, None], False), float("-inf"))
