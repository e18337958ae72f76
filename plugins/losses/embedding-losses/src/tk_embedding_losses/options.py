"""Options of the losses on vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class InfoNceOptions:
    """Options of `info-nce`."""

    temperature: Annotated[float, doc("Divides the cosines; 0.05 is usual.", gt=0)] = 0.05
    dims: Annotated[
        tuple[int, ...],
        doc("Matryoshka: the loss is the mean over vectors cut to each of these lengths; whole ones unless given."),
    ] = ()
    symmetric: Annotated[bool, doc("Also from positives to queries; the mean of both directions.")] = False
    margin: Annotated[
        float | None,
        doc("Passages closer to a query than its positive by more than this cosine are no negatives of it."),
    ] = None
