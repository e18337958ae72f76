"""What methods that train on generated answers share: everything before the rollout and its objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from tk.config.sections import Sampling
from tk.contracts import (
    Batch,
    Example,
    Figures,
    Layout,
    Limit,
    Loss,
    Pass,
    Role,
    Session,
    Settings,
    Stat,
    Template,
)
from tk.errors import UsageError
from tk.sample import Sample
from tk_rollouts.generate import evaluated
from tk_rollouts.prompts import collate_prompts, encode_prompts


class Online:
    """Base of methods whose data are prompts. A method adds its roles, source, passes and loss.

    least: answers that a prompt needs. gradient: of the policy, so that answers must come from the distribution that is
    trained. sampling: how they are drawn, known when the run's settings were checked.
    """

    scope: Literal["row", "window"] = "row"
    least: ClassVar[int] = 1
    gradient: ClassVar[bool] = True
    sampling = Sampling(temperature=1.0, max_tokens=1)

    def check(self, settings: Settings) -> None:
        """Refuse a config that cannot be learned from. Raises UsageError.

        What is trained are log-probs of the sampled distribution (temperature, top_p, top_k). Answers drawn with penalties
        for what was said before, and the like, are of another one, and the gradient would not be that of their rewards.
        """
        sampling = self.sampling = settings.sampling
        if sampling.n < self.least:
            raise UsageError(f"sampling.n: answers are held against one another: ask for {self.least} or more.")
        if sampling.temperature == 0:
            raise UsageError("sampling.temperature: at 0 all answers to a prompt are the same: use 1.")
        others = [*sampling.shifts, *(["min_p"] if sampling.min_p else [])]
        if self.gradient and others:
            name = others[0]
            raise UsageError(
                f"sampling.{name}: with {getattr(sampling, name)} answers come from another distribution "
                f"than the one whose log-probs are trained: use {getattr(Sampling(), name)}."
            )
        if not settings.rewards:
            raise UsageError("rewards: none is chosen: --rewards NAME (see `tk rewards list`).")

    def encode(self, samples: Sequence[Sample], template: Template, limit: Limit) -> list[Sequence[Example]]:
        return encode_prompts(samples, template, limit, self.sampling.max_tokens)

    def collate(self, rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        return collate_prompts(rows)

    def evaluate(self, examples: Sequence[Example], session: Session) -> list[Figures] | None:
        return evaluated([e.values["prompt"] for e in examples], session)

    def asked(self, role: str, *, grad: bool, id: str = "") -> Pass:
        """Log-probs of the distribution that answers are sampled from."""
        return Pass((self.sampled("logps", role),), role, grad, id)

    def sampled(self, stat: str, role: str = "policy") -> Stat:
        """A statistic of that distribution."""
        return Stat(stat, self.sampling.temperature, role, self.sampling.top_p, self.sampling.top_k)


def reference_role(checkpoint: str | None) -> Role:
    """What the policy is held against: another checkpoint, or the model as it was before training."""
    if checkpoint:
        return Role("reference", trainable=False, checkpoint=checkpoint)
    return Role("reference", trainable=False, of="policy", adapter_off=True)


def no_losses(losses: Mapping[str, tuple[float, Loss]]) -> None:
    """Raises UsageError where losses are chosen for a method that has no use for any."""
    if losses:
        raise UsageError(f"losses: {', '.join(losses)}: this method's objective is made of its own parts.")
