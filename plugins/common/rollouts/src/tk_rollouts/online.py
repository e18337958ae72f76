"""What methods that train on generated answers share: everything before the rollout and its objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from tk.config.sections import Sampling
from tk.contracts import Batch, Example, Figures, Layout, Limit, Loss, Pass, Role, Session, Stat, Template
from tk.errors import UsageError
from tk.sample import Sample
from tk_rollouts.generate import evaluated
from tk_rollouts.prompts import collate_prompts, encode_prompts


class Online:
    """Base of methods whose data are prompts. A method adds its roles, source, passes and loss.

    sampling: how answers are drawn; a method's `source` sets it.
    """

    scope: Literal["row", "window"] = "row"
    sampling = Sampling(temperature=1.0)

    def encode(self, samples: Sequence[Sample], template: Template, limit: Limit) -> list[Sequence[Example]]:
        return encode_prompts(samples, template, limit)

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
