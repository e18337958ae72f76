"""Advantages, losses and gradients equal TRL's released trainers on the same answers, in every layout."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import peft
import pytest
import torch
import trl
from torch import Tensor, nn
from trl.trainer.utils import add_fused_lm_head

from tk.contracts import Batch, Completion, Layout, LoadedModel, Request, Sampling, World
from tk.sample import Message, Sample
from tk_conformance.parity import (
    LAYOUTS,
    TRAINER,
    Numbers,
    Stepped,
    check_same,
    gradient,
    moved,
    number_tokenizer,
    one_step,
    tiny_model,
)
from tk_grpo import advantages, objective
from tk_grpo.contracts import Advantage
from tk_grpo.method import Grpo
from tk_grpo.options import ClipOptions, GroupOptions, GrpoOptions
from tk_grpo.rollouts import roll_out
from tk_rollouts.answers import Answer, Group
from tk_rollouts.prompts import Prompt
from tk_tensor.scored import build_scored

SHAPES = [(7, (5, 3, 6)), (12, (2, 4, 1))]
"""Tokens of each prompt and of its answers."""
LIMIT = 8
LORA = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
CLIP, HIGHER = ClipOptions(), ClipOptions(0.2, 0.28)
KL = GrpoOptions(kl=0.04, reference="elsewhere")
VARIANTS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"options": KL, "clip": CLIP, "aggregation": "sequence"}, {"loss_type": "grpo", "beta": 0.04}),
    "grpo, biased KL": (
        {
            "options": GrpoOptions(kl=0.04, kl_unbiased=False, reference="elsewhere"),
            "clip": CLIP,
            "aggregation": "sequence",
        },
        {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False},
    ),
    "grpo without KL": ({"clip": CLIP, "aggregation": "sequence"}, {"loss_type": "grpo", "beta": 0.0}),
    "dapo": (
        {"clip": HIGHER, "aggregation": "token"},
        {"loss_type": "dapo", "beta": 0.0, "epsilon": 0.2, "epsilon_high": 0.28},
    ),
    "dr. grpo": ({"clip": CLIP, "aggregation": "constant"}, {"loss_type": "dr_grpo", "beta": 0.0}),
    "gspo": (
        {"clip": CLIP, "aggregation": "sequence", "ratio": "sequence"},
        {"loss_type": "grpo", "beta": 0.0, "importance_sampling_level": "sequence"},
    ),
    "two-sided": (
        {"clip": ClipOptions(0.2, 0.2, 1.5), "aggregation": "sequence"},
        {"loss_type": "grpo", "beta": 0.0, "delta": 1.5},
    ),
}
AGGREGATIONS = {"sequence": objective.by_sequence, "token": objective.by_token, "constant": objective.by_constant}
RATIOS = {
    "token": objective.token_ratio,
    "sequence": objective.sequence_ratio,
    "sequence-sum": objective.sequence_sum_ratio,
}


def method_of(
    options: GrpoOptions | None = None,
    clip: ClipOptions = CLIP,
    aggregation: str = "sequence",
    ratio: str = "token",
    advantage: Advantage | None = None,
) -> Grpo:
    made = Grpo(
        options or GrpoOptions(),
        {},
        advantage or advantages.Group(GroupOptions()),
        RATIOS[ratio],
        objective.Clip(clip),
        AGGREGATIONS[aggregation],
    )
    made.sampling = Sampling(temperature=0.7, max_tokens=LIMIT)
    return made


@pytest.fixture(scope="module", params=["full", "lora"])
def models(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """A policy that has moved away from its reference, whole or by its adapter."""
    reference = tiny_model()
    policy = copy.deepcopy(reference)
    return moved(peft.get_peft_model(policy, LORA) if request.param == "lora" else policy), reference


@pytest.fixture(scope="module")
def groups(models: tuple[nn.Module, nn.Module]) -> list[Group]:
    """Answers with advantages, and log-probs of an older policy."""
    draw = np.random.default_rng(0)
    made = []
    for prompt, lengths in SHAPES:
        ids = draw.integers(1, 101, prompt).tolist()
        answers = []
        for length in lengths:
            answer = draw.integers(1, 101, length).tolist()
            old = (_logps(models[0], ids, answer) + torch.from_numpy(draw.normal(0, 0.3, length)).float()).tolist()
            answers.append(Answer(answer, advantage=float(draw.normal()), tokens={"old": old}))
        made.append(Group(ids, answers))
    return made


@torch.no_grad()
def _logps(model: nn.Module, prompt: list[int], answer: list[int]) -> Tensor:
    ids = torch.tensor([prompt + answer])
    logps = (model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / 0.7).log_softmax(-1)
    return logps.gather(1, ids[0, len(prompt) :, None])[:, 0]


def ours(
    models: tuple[nn.Module, nn.Module], groups: list[Group], method: Grpo, layout: Layout, micro: int = 2
) -> Stepped:
    roles = {"policy": models[0], **({"reference": models[1]} if method.options.kl else {})}
    return one_step(method, roles, [method.batch(groups[i : i + micro], layout) for i in range(0, len(groups), micro)])


def padded(rows: list[list[float]], side: str, fill: float = 0) -> Tensor:
    width = max(map(len, rows))
    blank = [[fill] * (width - len(row)) for row in rows]
    return torch.tensor([b + r if side == "left" else r + b for r, b in zip(rows, blank, strict=True)])


def inputs_of(models: tuple[nn.Module, nn.Module], groups: list[Group]) -> dict[str, Any]:
    """The same answers as TRL's trainers take them."""
    flat = [(list(group.prompt), answer) for group in groups for answer in group.answers]
    mask = padded([[1] * len(a.ids) for _, a in flat], "right")
    return {
        "prompt_ids": padded([p for p, _ in flat], "left"),
        "prompt_mask": padded([[1] * len(p) for p, _ in flat], "left"),
        "completion_ids": padded([list(a.ids) for _, a in flat], "right"),
        "completion_mask": mask,
        "advantages": torch.tensor([a.advantage for _, a in flat]),
        "old_per_token_logps": padded([list(a.tokens["old"]) for _, a in flat], "right"),
        "old_logps": torch.tensor([sum(a.tokens["old"]) for _, a in flat]),
        "ref_per_token_logps": padded([_logps(models[1], p, list(a.ids)).tolist() for p, a in flat], "right"),
        "num_items_in_batch": mask.sum(),
    }


def trainer_of(kind: str, model: nn.Module, folder: Path, rewards: Sequence[float | None] = (), **options: Any) -> Any:
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(folder),
        **TRAINER,
        num_generations=3,
        per_device_train_batch_size=6,
        max_completion_length=LIMIT,
        temperature=0.7,
        **options,
    )
    trainer = getattr(trl, f"{kind}Trainer")(
        model=model,
        reward_funcs=lambda completions, **_: list(rewards),
        args=config,
        train_dataset=datasets.Dataset.from_list([{"prompt": "w1"}] * 6),
        processing_class=number_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_loss_and_gradients_equal_trls_grpo(
    models: tuple[nn.Module, nn.Module],
    groups: list[Group],
    name: str,
    tmp_path: Path,
) -> None:
    parts, options = VARIANTS[name]
    kl = options["beta"]
    trainer = trainer_of("GRPO", copy.deepcopy(models[0]), tmp_path, **{**options, "beta": 0.0})
    trainer.beta = kl  # with it from the start a reference would be loaded by name; its log-probs are given
    loss = trainer._compute_loss(trainer.model, inputs_of(models, groups))
    loss.backward()
    expected = loss.item(), gradient(trainer.model)
    for layout_name, layout in LAYOUTS.items():
        check_same(ours(models, groups, method_of(**parts), layout), expected, layout_name)
    check_same(ours(models, groups, method_of(**parts), LAYOUTS["right"], micro=1), expected, "accumulated")


BOUNDS = {"correction_max": 1.2, "correction_min": 0.7}


@pytest.mark.parametrize("how", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_answers_of_an_engine_that_differs_are_weighed_as_in_trl(
    models: tuple[nn.Module, nn.Module], groups: list[Group], how: str, tmp_path: Path
) -> None:
    draw, given = np.random.default_rng(1), copy.deepcopy(groups)
    for answer in (answer for group in given for answer in group.answers):
        apart = draw.normal(0, 0.3, len(answer.ids))
        answer.tokens["engine"] = (np.asarray(answer.tokens["old"]) - apart).tolist()
    inputs = inputs_of(models, given)
    engine = padded([list(a.tokens["engine"]) for group in given for a in group.answers], "right")
    apart = (inputs["old_per_token_logps"] - engine) * inputs["completion_mask"]
    ratio = (apart.sum(-1, keepdim=True) if how.startswith("sequence") else apart).exp()
    outside = (ratio < 0.7) | (ratio > 1.2)
    assert outside.any() and not outside.all()  # noqa: PT018 - a setting of the test
    inputs["importance_sampling_ratio"] = ratio.clamp(0.7, 1.2) if how.endswith("truncate") else ratio * ~outside
    trainer = trainer_of("GRPO", copy.deepcopy(models[0]), tmp_path, loss_type="grpo", beta=0.0)
    trainer.beta, trainer.use_vllm, trainer.vllm_importance_sampling_correction = 0.04, True, True
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    expected = loss.item(), gradient(trainer.model)
    options = GrpoOptions(kl=0.04, reference="elsewhere", correction=how, **BOUNDS)  # type: ignore[arg-type]
    for layout_name, layout in LAYOUTS.items():
        check_same(ours(models, given, method_of(options), layout), expected, layout_name)


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr. grpo"])
def test_answers_that_were_cut_off_count_as_in_trl(
    models: tuple[nn.Module, nn.Module], groups: list[Group], name: str, tmp_path: Path
) -> None:
    """With `mask_truncated` they are not trained on; what means are taken over has them still."""
    parts, options = VARIANTS[name]
    cut = copy.deepcopy(groups)
    cut[0].answers[1].trained = False
    given = inputs_of(models, cut)
    given["completion_mask"] *= torch.tensor([[int(answer.trained)] for group in cut for answer in group.answers])
    given["num_items_in_batch"] = given["completion_mask"].sum()
    trainer = trainer_of("GRPO", copy.deepcopy(models[0]), tmp_path, **{**options, "beta": 0.0})
    trainer.beta = options["beta"]
    loss = trainer._compute_loss(trainer.model, given)
    loss.backward()
    expected = loss.item(), gradient(trainer.model)
    check_same(ours(models, cut, method_of(**parts), LAYOUTS["right"]), expected, name)


def test_loss_and_gradients_equal_trls_rloo(
    models: tuple[nn.Module, nn.Module], groups: list[Group], tmp_path: Path
) -> None:
    trainer = trainer_of("RLOO", copy.deepcopy(models[0]), tmp_path, beta=0.0)
    loss = trainer._compute_loss(trainer.model, inputs_of(models, groups))
    loss.backward()
    expected = loss.item(), gradient(trainer.model)
    method = method_of(ratio="sequence-sum")
    for layout_name, layout in LAYOUTS.items():
        check_same(ours(models, groups, method, layout), expected, layout_name)
    check_same(ours(models, groups, method, LAYOUTS["right"], micro=1), expected, "accumulated")


GIVEN = [1.0, 0.0, 0.5, 2.0, None, 0.25]
"""The rewards of the answers."""


class Alone:
    """The Session of a process alone, whose answers and rewards are given."""

    seed, steps, world, rewards, template, layout = (
        0,
        None,
        World(0, 1, "cpu"),
        {"given": 1.0},
        Numbers(),
        LAYOUTS["right"],
    )

    def __init__(
        self, method: Grpo, models: Mapping[str, nn.Module], answers: Sequence[Sequence[Sequence[int]]]
    ) -> None:
        self.sampling, self.answers = method.sampling, answers
        loaded = {role: LoadedModel(module, None, "") for role, module in models.items()}
        self.scored = build_scored(loaded, method.roles())

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return [[Completion(tuple(ids), "", "stop") for ids in own] for own in self.answers]

    def reward(self, samples: Any, completions: Any) -> dict[str, Sequence[float | None]]:
        return {"given": GIVEN}

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def score(self, batches: Sequence[Batch], passes: Any) -> list[Any]:
        with torch.no_grad():
            return [self.scored(batch.inputs, batch.fields, passes) for batch in batches]


STEPS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{
        f"grpo, {scale}": (
            "GRPO",
            {"options": KL, "advantage": advantages.Group(GroupOptions(scale))},  # type: ignore[arg-type]
            {"loss_type": "grpo", "scale_rewards": scale, "beta": 0.04},
        )
        for scale in ("group", "batch", "none")
    },
    "rloo": (
        "RLOO",
        {
            "options": GrpoOptions(kl=0.05, kl_in="reward", reference="elsewhere"),
            "advantage": advantages.leave_one_out,
            "ratio": "sequence-sum",
        },
        {"beta": 0.05},
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_rollout_becomes_the_step_that_trl_makes_of_it(
    models: tuple[nn.Module, nn.Module], groups: list[Group], name: str, tmp_path: Path
) -> None:
    """From answers and rewards to advantages, loss and gradient, with the divergence where each has it."""
    kind, parts, options = STEPS[name]
    trainer = trainer_of(kind, copy.deepcopy(models[0]), tmp_path, GIVEN, **{**options, "beta": 0.0})
    trainer.beta, trainer.ref_model = options["beta"], copy.deepcopy(models[1]).eval()
    add_fused_lm_head(trainer.ref_model, temperature=0.7)  # as the trainer does with one that it loads itself
    prompts = [list(group.prompt) for group in groups]
    answers = [[list(answer.ids) for answer in group.answers] for group in groups]
    flat = [p for p, own in zip(prompts, answers, strict=True) for _ in own], [a for own in answers for a in own]
    texts = ["w1"] * len(flat[0])
    nothing = (None, {}, None, None)
    told = (*flat, texts) if kind == "RLOO" else (*flat, None, texts, *nothing)
    trainer._generate = lambda prompts: told
    made = trainer._generate_and_score_completions([{"prompt": "w1"}] * len(texts))
    loss = trainer._compute_loss(trainer.model, made)
    loss.backward()
    method = method_of(**parts)
    roles = {"policy": models[0], "reference": models[1]}
    session = Alone(method, roles, answers)
    sample = Sample((Message("user", "?"),))
    asked = [(Prompt(prompt, sample), "") for prompt in prompts]
    own = roll_out(method, session, asked, False, lambda count: [])  # type: ignore[arg-type]
    found = [answer.advantage for group in own for answer in group.answers]
    assert found == pytest.approx(made["advantages"].tolist(), rel=1e-5, abs=1e-6)
    check_same(ours(models, own, method, LAYOUTS["right"]), (loss.item(), gradient(trainer.model)), name)


REWARDS = torch.tensor([[1.0, 0.0, 0.5], [2.0, 2.0, 2.0], [1.0, float("nan"), 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_those_of_the_group(scale: Any) -> None:
    found = advantages.Group(GroupOptions(scale))(REWARDS, torch.ones_like(REWARDS))
    for g, row in enumerate(REWARDS.tolist()):
        there = [r for r in row if r == r]
        spread = {"group": there, "batch": [r for r in REWARDS.flatten().tolist() if r == r], "none": []}[scale]
        divisor = float(torch.tensor(spread, dtype=torch.float64).std()) + 1e-4 if spread else 1.0
        for i, r in enumerate(row):
            expected = 0.0 if r != r else (r - sum(there) / len(there)) / divisor
            assert float(found[g, i]) == pytest.approx(expected, abs=1e-9)


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    found = advantages.leave_one_out(REWARDS, torch.ones_like(REWARDS))
    assert found.tolist() == [
        pytest.approx([1 - 0.25, 0 - 0.75, 0.5 - 0.5]),
        pytest.approx([0, 0, 0]),
        pytest.approx([1 - 0, 0, 0 - 1]),
    ]
    alone = torch.tensor([[1.0, float("nan")]])
    assert advantages.leave_one_out(alone, torch.ones_like(alone)).tolist() == [[0.0, 0.0]]
