"""Options of the exporter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class TransformersOptions:
    """How the checkpoint is checked."""

    tolerance: Annotated[float, doc("Largest difference of logits after loading, relative to the largest.", gt=0)] = (
        1e-4
    )
