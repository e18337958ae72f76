"""Options of the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk import doc


@dataclass(frozen=True)
class RaftOptions:
    """Options of `raft`. How many answers a prompt gets is `sampling.n`."""

    keep: Annotated[int, doc("Answers to each prompt that are trained on: those with the highest rewards.", ge=1)] = 1
    floor: Annotated[float | None, doc("Answers with a lower reward are not trained on.")] = None
    steps_per_rollout: Annotated[int, doc("Optimizer steps on the prompts that are generated for at once.", ge=1)] = 1
    iterations: Annotated[int, doc("Passes over what was generated.", ge=1)] = 1
