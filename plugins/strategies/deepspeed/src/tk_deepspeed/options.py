"""Options of the strategy `deepspeed`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk.config.options import doc

Preset = Literal["zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"]


@dataclass(frozen=True)
class DeepspeedOptions:
    """What is sharded, and what is kept on the CPU."""

    preset: Annotated[Preset | None, doc("One of the configs of this package; zero2 where no other is given.")] = None
    config: Annotated[
        str | None, doc('A DeepSpeed config of your own (JSON); "auto" stands for what tk\'s config says.')
    ] = None
    accelerator: Annotated[
        str | None, doc("What DeepSpeed is told to compute on (cpu, cuda, …); it looks for itself unless given.")
    ] = None
    timeout: Annotated[float, doc("Seconds that processes wait for one another before the run fails.", gt=0)] = 1800.0
