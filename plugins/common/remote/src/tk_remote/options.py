"""What engines have in common that run in an interpreter of their own. Free of torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

from tk.config.options import doc


@dataclass(frozen=True)
class WorkerOptions:
    """Where the engine runs, and its own arguments."""

    python: Annotated[
        str, doc("Interpreter of the environment that the engine is installed in; this process unless given.")
    ] = ""
    args: Annotated[
        dict[str, Any], doc("The engine's own arguments, by the names of its command line: {max_model_len: 2048}.")
    ] = field(default_factory=dict)
    env: Annotated[dict[str, str], doc("Environment variables of the worker.", secret=True)] = field(
        default_factory=dict
    )
    start_timeout: Annotated[float, doc("Seconds that the worker may take to begin.", gt=0)] = 1800.0
    restarts: Annotated[int, doc("How often a worker that has died is begun anew.", ge=0)] = 3

    def __post_init__(self) -> None:
        if self.env and not self.python:
            raise ValueError(
                "env: these are variables of a worker, and there is none without python: give its interpreter."
            )

    def words(self) -> list[str]:
        """`args` as words of a command line: {"max_model_len": 9, "eager": True} -> ["--max-model-len", "9", "--eager"]."""
        found = []
        for name, value in self.args.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                found.append(f"--{flag}" if value else f"--no-{flag}")
            elif isinstance(value, (list, tuple)):
                found += [f"--{flag}", *map(str, value)]
            elif value is not None:
                found += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
        return found
