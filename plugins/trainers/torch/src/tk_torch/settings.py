"""What a run's config tells to its method and source, known before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tk.compose import Plan
from tk.errors import TkError


class Configured:
    """Implements tk.contracts.Settings."""

    def __init__(self, plan: Plan) -> None:
        self.sampling, self.seed, self.steps = plan.config.sampling, plan.config.train.seed, plan.config.train.steps
        self.rewards: Mapping[str, float] = {name: chosen.weight for name, chosen in plan.many("rewards").items()}


class Unstarted(Configured):
    """The Session of a run that is only planned: it has no model to be asked."""

    def __getattr__(self, name: str) -> Any:
        raise TkError(f"The run is only planned: its session has no {name!r} yet.")
