"""Options of the method and of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk.config.options import doc
from tk_rollouts.options import CorrectionOptions


@dataclass(frozen=True)
class GrpoOptions(CorrectionOptions):
    """Options of `grpo`, `dapo` and `rloo`. How many answers a prompt gets is `sampling.n`.

    What is trained are log-probs of the sampled distribution: at `sampling.temperature`, within `top_p` and `top_k` as the policy
    stands, with the sampled token. Penalties, `min_p` and the like are refused: the answers would be of another distribution.
    """

    kl: Annotated[
        float, doc("Factor on the divergence from the untuned model (k3 estimator); 0 needs no reference.", ge=0)
    ] = 0.0
    kl_in: Annotated[
        Literal["loss", "reward"], doc("The divergence is a term of the loss, or is taken off each answer's reward.")
    ] = "loss"
    kl_unbiased: Annotated[
        bool,
        doc("Multiply the divergence by the ratio, so that its gradient is that of the reverse KL (arXiv 2512.02556)."),
    ] = True
    reference: Annotated[
        str | None, doc("Checkpoint of the reference model; by default the model as it was before training.")
    ] = None
    steps_per_rollout: Annotated[int, doc("Optimizer steps on the prompts that are generated for at once.", ge=1)] = 1
    iterations: Annotated[int, doc("Passes over what was generated.", ge=1)] = 1
    overlong: Annotated[
        float,
        doc(
            "Over this share of sampling.max_tokens, at its end, a penalty on long answers grows from 0 to -1 (soft overlong "
            "punishment, arXiv 2503.14476, equation 13). It is added to the reward that answers are held against one another "
            "by; held-out rewards are without it.",
            ge=0,
            le=1,
        ),
    ] = 0.0
    mask_truncated: Annotated[
        bool, doc("Answers that were cut off are not trained on; they count in the means that are taken over answers.")
    ] = False
    resample: Annotated[
        int,
        doc(
            "Rounds in which further prompts are drawn from the data in the place of those whose answers all have one "
            "reward (dynamic sampling, arXiv 2503.14476); what is missing after them is left out. The run's steps stay as "
            "planned, so that it may pass over the data more often.",
            ge=0,
        ),
    ] = 0


@dataclass(frozen=True)
class GroupOptions:
    """Options of the advantage `group`."""

    scale: Annotated[Literal["group", "batch", "none"], doc("Whose standard deviation rewards are divided by.")] = (
        "group"
    )
    epsilon: Annotated[float, doc("Added to the standard deviation.", gt=0)] = 1e-4


@dataclass(frozen=True)
class ClipOptions:
    """Options of the clip `clip`."""

    low: Annotated[float, doc("The ratio counts down to 1 - low.", gt=0, lt=1)] = 0.2
    high: Annotated[float | None, doc("It counts up to 1 + high; as low unless given.", gt=0)] = None
    most: Annotated[float | None, doc("Two-sided: the ratio never counts for more than this.", gt=1)] = None
