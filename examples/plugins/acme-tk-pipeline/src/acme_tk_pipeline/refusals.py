"""What this trainer cannot carry, said before a run begins."""

from __future__ import annotations

from collections.abc import Iterator

from tk.compose import Plan
from tk.contracts import Source
from tk.errors import UsageError
from tk_torch.precision import computed_in


def check(plan: Plan, processes: int) -> None:
    """Raises UsageError for what the config and the method's roles tell."""
    for reason in _reasons(plan, processes):
        raise UsageError(f"trainer pipeline: {reason}.")


def check_source(plan: Plan, source: Source, data: Source) -> None:
    """Raises UsageError where a method does not train on the windows of the data."""
    if source is not data:
        raise UsageError(
            f"trainer pipeline: trains on data as it is, and method {plan.one('method').name} has a source of its own."
        )


def _reasons(plan: Plan, processes: int) -> Iterator[str]:
    config, method = plan.config, plan.method()
    if processes != 2:
        yield f"runs on two processes, not on {processes}: --launcher.processes 2"
    if computed_in(plan, "cpu") != "fp32":
        yield "computes in single precision: leave out train.precision"
    if config.eval.generate:
        yield "has no whole model to answer with: leave out eval.generate"
    if plan.many("rewards"):
        yield f"has no whole model to answer with, so that nothing is rewarded (rewards: {', '.join(plan.many('rewards'))})"
    if method.scope == "window":
        yield f"takes micro-batches one by one, and rows see each other in losses {', '.join(plan.many('losses'))}"
    for role in method.roles():
        if role.of and role.trainable:
            yield f"trains whole models, and the {role.name} of method {plan.one('method').name} is a head on the {role.of}"
        if role.precomputed:
            yield f"asks every role step by step, and method {plan.one('method').name} precomputes the {role.name}"
