"""Options of the method `ppo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk.config.options import doc
from tk_rollouts.options import CorrectionOptions


@dataclass(frozen=True)
class PpoOptions(CorrectionOptions):
    """PPO (arXiv 1707.06347) as it is used on language models (arXiv 2403.17031). How far the policy may move: `clip`.

    What is trained are log-probs of the sampled distribution: at `sampling.temperature`, within `top_p` and `top_k`.
    """

    critic: Annotated[
        Literal["shared", "own"],
        doc("A value head on the policy's own backbone, or a second model that is trained like the policy."),
    ] = "shared"
    critic_checkpoint: Annotated[
        str | None, doc("Where a critic of its own starts: a model with or without a head; by default the policy's.")
    ] = None
    critic_lr_scale: Annotated[float, doc("Learning rate of the critic (shared: of its head) over optim.lr.", gt=0)] = (
        1.0
    )
    kl: Annotated[
        float, doc("Factor on the divergence from the reference, taken off each token's reward; 0: no reference.", ge=0)
    ] = 0.05
    kl_estimator: Annotated[
        Literal["k1", "k3"], doc("How a token's divergence is estimated (joschu.net/blog/kl-approx.html).")
    ] = "k1"
    reference: Annotated[
        str | None, doc("Checkpoint of the reference model; by default the model as it was before training.")
    ] = None
    gamma: Annotated[float, doc("Discount of later rewards, by token.", ge=0, le=1)] = 1.0
    gae_lambda: Annotated[
        float, doc("How far advantages look beyond the next token's value (arXiv 1506.02438).", ge=0, le=1)
    ] = 0.95
    whiten_advantages: Annotated[bool, doc("Advantages of a rollout get mean 0 and variance 1.")] = True
    whiten_rewards: Annotated[bool, doc("Rewards of a rollout's tokens get variance 1 (their mean stays).")] = False
    value_coef: Annotated[float, doc("Weight of the critic's loss.", gt=0)] = 0.1
    value_clip: Annotated[
        float | None, doc("Values count within this distance of those at the rollout; null: wherever they are.", gt=0)
    ] = 0.2
    missing_eos_penalty: Annotated[float, doc("Taken off the reward of answers that were cut off.", ge=0)] = 0.0
    steps_per_rollout: Annotated[int, doc("Optimizer steps on the prompts that are generated for at once.", ge=1)] = 1
    iterations: Annotated[int, doc("Passes over what was generated.", ge=1)] = 4
