"""What the parts of the policy objective are: advantage, ratio, clip, aggregation. Free of torch at run time.

Shapes: P prompts with G answers each, R = P·G answers of a batch, N trained tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tk import Spec
from tk.contracts import Reduce

if TYPE_CHECKING:
    from torch import Tensor


class AdvantageSpec(Spec):
    """How much better an answer is than was to be expected."""


class RatioSpec(Spec):
    """How much more probable an answer is than when it was sampled."""


class ClipSpec(Spec):
    """How far the policy may move on one answer."""


class AggregationSpec(Spec):
    """How tokens make up the objective of a step."""


@runtime_checkable
class Advantage(Protocol):
    """Built as `target([options])`."""

    def __call__(self, rewards: Tensor, lengths: Tensor) -> Tensor:
        """[P, G] rewards of the whole step, over all ranks (nan: no reward applies) -> [P, G], 0 where it was nan.

        lengths: [P, G] generated tokens of each answer. Both are float64.
        """
        ...


@runtime_checkable
class Ratio(Protocol):
    """Built as `target([options])`."""

    def __call__(self, log_ratio: Tensor, rows: Tensor, lengths: Tensor, reduce: Reduce) -> Tensor:
        """log π/π_old of tokens [N], differentiable -> log-ratio that each token is weighted by [N].

        rows: answer of each token [N]. lengths: trained tokens of each answer [R].
        """
        ...


@runtime_checkable
class Clip(Protocol):
    """Built as `target([options])`."""

    def __call__(self, ratio: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """[N] ratios and advantages -> what is maximised [N], and where it was clipped [N] (0 or 1)."""
        ...


@runtime_checkable
class Aggregation(Protocol):
    """Built as `target([options])`."""

    def __call__(self, lengths: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """[R] trained tokens of each answer -> the factor on each of its tokens [R], and what it adds to the normaliser [R].

        limit: the most tokens that an answer may have.
        """
        ...
