"""What this trainer cannot carry, said before a run begins."""

from __future__ import annotations

from collections.abc import Iterator

from tk.compose import Plan
from tk.contracts import Source
from tk.errors import UsageError
from tk_torch.assemble import Parts
from tk_torch.precision import computed_in


def check_config(plan: Plan, processes: int) -> None:
    """Raises UsageError for what the config alone tells."""
    _refuse(_of_config(plan, processes))


def check_parts(plan: Plan, parts: Parts, source: Source) -> None:
    """Raises UsageError for what the method and the data tell."""
    _refuse(_of_parts(plan, parts, source))


def _of_config(plan: Plan, processes: int) -> Iterator[str]:
    config, method = plan.config, plan.method()
    if processes != 2:
        yield f"runs on two processes, and there is {processes}: --launcher.processes 2"
    if computed_in(plan, "cpu") != "fp32":
        yield "computes in single precision: leave out train.precision"
    if config.eval.generate:
        yield "has no whole model to answer with: leave out eval.generate"
    if plan.many("rewards"):
        yield f"trains on data, which has no use for rewards ({', '.join(plan.many('rewards'))}): leave them out"
    if method.scope == "window":
        yield f"takes micro-batches one by one, and rows see each other in losses {', '.join(plan.many('losses'))}"
    for role in method.roles():
        if role.precomputed:
            yield f"asks every role step by step, and method {plan.one('method').name} precomputes the {role.name}"


def _of_parts(plan: Plan, parts: Parts, source: Source) -> Iterator[str]:
    method = plan.one("method").name
    if source is not parts.loader:
        yield f"trains on data only, and method {method} makes its own"
    if parts.scored.heads_by_role:
        yield f"has no place for a second head, which method {method} trains"
    media = parts.data.train.media_types | parts.data.eval.media_types
    if media:
        yield f"reads text only, and the data has {', '.join(sorted(media))}"


def _refuse(reasons: Iterator[str]) -> None:
    for reason in reasons:
        raise UsageError(f"trainer pipeline: {reason}.")
