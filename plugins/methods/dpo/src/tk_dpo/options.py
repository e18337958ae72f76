"""Options of the method `dpo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class DpoOptions:
    """Options of `dpo`."""

    reference: Annotated[
        str | None, doc("Checkpoint of the reference model; by default the model as it was before training.")
    ] = None
    precompute_reference: Annotated[
        bool,
        doc("The reference's log-probs once, before the first step, kept with the run; then its model is let go."),
    ] = False
