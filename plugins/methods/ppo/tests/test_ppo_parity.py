"""Estimates, losses and gradients equal the formulas of the papers, written out in double precision, in every layout."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import nn

from tk.contracts import LoadedModel, Sampling
from tk_conformance.parity import LAYOUTS, AdapterOff, check_same, gradient, moved, tiny_model
from tk_grpo.objective import Clip
from tk_grpo.options import ClipOptions
from tk_ppo.estimates import divergences, generalised_advantages
from tk_ppo.method import Ppo
from tk_ppo.options import PpoOptions
from tk_rollouts.answers import Answer, Group
from tk_tensor.collate import reduce_for
from tk_tensor.scored import build_scored

SHAPES = [(7, (5, 3, 6)), (12, (2, 4)), (5, (1,))]
"""Tokens of each prompt and of its answers."""
TEMPERATURE = 0.7


def method_of(critic: Any, **options: Any) -> Ppo:
    made = Ppo(PpoOptions(critic=critic, kl=0.0, **options), {}, Clip(ClipOptions(0.2, 0.3)))
    made.sampling = Sampling(temperature=TEMPERATURE)
    return made


LORA = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def models_of(critic: str, tuned: str = "full") -> dict[str, nn.Module]:
    policy = tiny_model()
    found = {"policy": moved(peft.get_peft_model(policy, LORA) if tuned == "lora" else policy)}
    if critic == "own":
        found["critic"] = moved(tiny_model("LlamaForTokenClassification", num_labels=1, classifier_dropout=0.0, seed=3))
    return found


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    """Answers whose tokens have numbers of every kind, near and far from what the models give."""
    draw = np.random.default_rng(0)
    made = []
    for prompt, lengths in SHAPES:
        answers = []
        for length in lengths:
            tokens = {
                "old": draw.normal(-5, 0.4, length).tolist(),
                "values": draw.normal(0, 0.3, length).tolist(),
                "advantages": draw.normal(0, 1, length).tolist(),
                "returns": draw.normal(0, 0.6, length).tolist(),
            }
            tokens["engine"] = (np.asarray(tokens["old"]) - draw.normal(0, 0.3, length)).tolist()
            answers.append(Answer(draw.integers(1, 101, length).tolist(), reward=float(length), tokens=tokens))
        made.append(Group(draw.integers(1, 101, prompt).tolist(), answers))
    made[1].answers.append(Answer([5, 6, 7], trained=False))
    return made


def expected(models: Mapping[str, nn.Module], head: nn.Linear | None, groups: list[Group], options: PpoOptions) -> Any:
    """Value and gradients in double precision: arXiv 1707.06347, eq. 7 and the clipped value loss of its code, over the
    mean of all tokens."""
    nets = {name: copy.deepcopy(net).double() for name, net in models.items()}
    own_head = copy.deepcopy(head).double() if head is not None else nets["critic"].score
    owner: Any = nets["policy" if head is not None else "critic"]
    backbone = (owner.get_base_model() if isinstance(owner, peft.PeftModel) else owner).model
    policy, value, count = [], [], 0
    for group in groups:
        for answer in group.answers:
            if not answer.trained:
                continue
            ids, start = torch.tensor([[*group.prompt, *answer.ids]]), len(group.prompt) - 1
            logits = nets["policy"](input_ids=ids).logits[0, start:-1] / TEMPERATURE
            logps = logits.log_softmax(-1).gather(1, ids[0, start + 1 :, None])[:, 0]
            values = own_head(backbone(input_ids=ids).last_hidden_state[0, start:-1])[:, 0]
            old, before, advantages, returns, engine = (
                torch.tensor(answer.tokens[n], dtype=torch.float64)
                for n in ("old", "values", "advantages", "returns", "engine")
            )
            ratio = (logps - old).exp()
            gained = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.3) * advantages)
            policy.append(-(gained * counted(old - engine, options.correction)).sum())
            error = (values - returns) ** 2
            if options.value_clip is not None:
                near = before + (values - before).clamp(-options.value_clip, options.value_clip)
                error = torch.maximum(error, (near - returns) ** 2)
            value.append(0.5 * error.sum())
            count += len(answer.ids)
    objective = (torch.stack(policy).sum() + options.value_coef * torch.stack(value).sum()) / count
    objective.backward()
    found = [gradient(net) for net in nets.values()] + ([gradient(own_head)] if head is not None else [])
    return objective.item(), torch.cat(found)


def counted(apart: torch.Tensor, how: str) -> torch.Tensor | float:
    """Importance weights of an engine's tokens within 0.7 and 1.2, of each or of the answer, cut to these or left out."""
    if how == "none":
        return 1.0
    ratio = (apart.sum() if how.startswith("sequence") else apart).exp()
    return ratio.clamp(0.7, 1.2) if how.endswith("truncate") else ratio * ((ratio >= 0.7) & (ratio <= 1.2))


def ours(
    models: Mapping[str, nn.Module], head: nn.Linear | None, groups: list[Group], method: Ppo, layout: Any, micro: int
) -> Any:
    loaded = {role: LoadedModel(module, None, "") for role, module in models.items()}
    scored = build_scored(loaded, method.roles(), AdapterOff())  # type: ignore[arg-type]
    if head is not None:
        scored.heads_by_role["critic"].load_state_dict(head.state_dict())
    scored.zero_grad()
    batches = [method.batch(groups[i : i + micro], layout) for i in range(0, len(groups), micro)]
    total, value = sum(batch.weights["policy"] for batch in batches), 0.0
    for batch in batches:
        outputs = scored(batch.inputs, batch.fields, method.passes(batch))
        terms = method.loss(outputs, batch, reduce_for(batch)).terms
        part = torch.stack([term.coef * term.sum / total for term in terms.values()]).sum()
        part.backward()
        value += part.item()
    return value, torch.cat(
        [gradient(m) for m in (*models.values(), *([scored.heads_by_role["critic"]] if head is not None else []))]
    )


@pytest.mark.parametrize("value_clip", [0.2, None])
@pytest.mark.parametrize("critic", ["shared", "own"])
@pytest.mark.parametrize("tuned", ["full", "lora"])
def test_loss_and_gradients_equal_the_papers(
    groups: list[Group], tuned: str, critic: str, value_clip: float | None
) -> None:
    models = models_of(critic, tuned)
    torch.manual_seed(0)
    head = nn.Linear(32, 1) if critic == "shared" else None
    method = method_of(critic, value_clip=value_clip, value_coef=0.5)
    wanted = expected(models, head, groups, method.options)
    for name, layout in LAYOUTS.items():
        check_same(ours(models, head, groups, method, layout, 9), (wanted[0], wanted[1].float()), name)
    check_same(ours(models, head, groups, method, LAYOUTS["right"], 1), (wanted[0], wanted[1].float()), "accumulated")


@pytest.mark.parametrize("how", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_answers_of_an_engine_that_differs_are_weighed(groups: list[Group], how: str) -> None:
    models, bounds = models_of("own"), {"correction_max": 1.2, "correction_min": 0.7}
    method, plain = method_of("own", correction=how, **bounds), method_of("own")
    wanted = expected(models, None, groups, method.options)
    assert wanted[0] != pytest.approx(expected(models, None, groups, plain.options)[0])
    for name, layout in LAYOUTS.items():
        check_same(ours(models, None, groups, method, layout, 9), (wanted[0], wanted[1].float()), name)


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_are_the_discounted_sums_of_residuals(gamma: float, gae_lambda: float) -> None:
    draw = np.random.default_rng(1)
    for length in (1, 2, 9):
        rewards, values = draw.normal(size=length).tolist(), draw.normal(size=length).tolist()
        residuals = [r + gamma * v - w for r, v, w in zip(rewards, [*values[1:], 0.0], values, strict=True)]
        wanted = [sum((gamma * gae_lambda) ** (k - t) * residuals[k] for k in range(t, length)) for t in range(length)]
        assert generalised_advantages(rewards, values, gamma, gae_lambda) == pytest.approx(wanted, abs=1e-12)
        if gae_lambda == 1.0:  # returns without bootstrapping: what follows, whatever was expected
            found = generalised_advantages(rewards, values, gamma, 1.0)
            follows = [sum(gamma ** (k - t) * rewards[k] for k in range(t, length)) for t in range(length)]
            assert [a + v for a, v in zip(found, values, strict=True)] == pytest.approx(follows, abs=1e-12)


def test_divergences_have_the_mean_of_the_whole_distribution() -> None:
    """Under the policy, both estimators' expectation is KL(policy, reference)."""
    generator = torch.Generator().manual_seed(0)
    policy, reference = (torch.randn(20, generator=generator, dtype=torch.float64).log_softmax(0) for _ in range(2))
    kl = float((policy.exp() * (policy - reference)).sum())
    for estimator in ("k1", "k3"):
        each = divergences(policy.tolist(), reference.tolist(), estimator)  # type: ignore[arg-type]
        assert math.fsum(p * d for p, d in zip(policy.exp().tolist(), each, strict=True)) == pytest.approx(
            kl, abs=1e-12
        )
    assert min(divergences(policy.tolist(), reference.tolist(), "k3")) >= 0
