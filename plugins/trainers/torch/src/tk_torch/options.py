"""Options of the trainer `torch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class TorchOptions:
    """What the loop does beside the kernel's own `train` section."""

    max_skipped: Annotated[
        int, doc("End the run after this many steps in a row whose gradients were not finite.", ge=1)
    ] = 20
    resamples: Annotated[int, doc("Bootstrap resamples behind the 95% interval of an evaluation.", ge=1)] = 1000
