"""Options of the losses on next-token prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class CausalLmOptions:
    """Options of `causal-lm`."""

    label_smoothing: Annotated[
        float, doc("Share of the target's probability that is spread evenly over the vocabulary.", ge=0, lt=1)
    ] = 0.0
    z_loss: Annotated[
        float,
        doc("Factor on the squared log of the softmax normaliser, which keeps logits small (1e-4 is usual).", ge=0),
    ] = 0.0
