"""Options of the strategy `fsdp`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class FsdpOptions:
    """How the model is sharded."""

    timeout: Annotated[float, doc("Seconds that processes wait for one another before the run fails.", gt=0)] = 1800.0
    reshard_after_forward: Annotated[
        bool, doc("Free a block's gathered weights after its forward and gather them again for its backward.")
    ] = True
    blocks: Annotated[
        list[str] | None, doc("Classes of the modules sharded one by one; the model's own unless given.")
    ] = None
