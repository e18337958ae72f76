"""What is chosen, the loss against transformers' own, and runs: spread over processes, stopped within a rollout, learning."""

import json

import numpy as np
import pytest
import torch
from acme_tk_raft.method import Raft, choose
from acme_tk_raft.options import RaftOptions
from safetensors.torch import load_file

import tk
from tk.errors import UsageError
from tk_conformance.methods import check_method
from tk_conformance.online import online_config, online_inputs
from tk_conformance.parity import LAYOUTS, check_same, gradient, one_step, tiny_model
from tk_lm_losses.losses import CausalLm
from tk_rollouts.answers import Answer, Group

SHAPES = [(7, (5, 3, 6)), (12, (2, 4, 1)), (3, (4, 4, 2))]
"""Tokens of each prompt and of its answers."""
REWARDS = [(0.1, 0.9, 0.5), (0.7, 0.7, None), (0.0, 0.2, 0.1)]


def groups():
    draw = np.random.default_rng(0)
    ids = lambda n: draw.integers(1, 101, n).tolist()  # noqa: E731
    return [
        Group(ids(prompt), [Answer(ids(n), reward=r) for n, r in zip(lengths, rewards, strict=True)])
        for (prompt, lengths), rewards in zip(SHAPES, REWARDS, strict=True)
    ]


def chosen(options):
    made = groups()
    for group in made:
        choose(group, options)
    return made


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return online_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (RaftOptions(), [[1], [0], [1]]),
        (RaftOptions(keep=2), [[1, 2], [0, 1], [1, 2]]),
        (RaftOptions(keep=2, floor=0.6), [[1], [0, 1], []]),
    ],
)
def test_the_best_answers_are_chosen(options, kept):
    found = chosen(options)
    assert [[i for i, a in enumerate(group.answers) if a.trained] for group in found] == kept
    assert found[1].answers[2].reward is None


@pytest.mark.parametrize("options", [RaftOptions(), RaftOptions(keep=2, floor=0.6)])
def test_loss_and_gradient_equal_transformers_on_the_chosen_answers(options):
    model = tiny_model()
    made = chosen(options)
    rows = [(list(g.prompt), list(a.ids)) for g in made for a in g.answers if a.trained]
    width = max(len(p) + len(a) for p, a in rows)
    ids, labels, mask = (
        torch.tensor([row + [fill] * (width - len(row)) for row in given])
        for fill, given in (
            (0, [p + a for p, a in rows]),
            (-100, [[-100] * len(p) + a for p, a in rows]),
            (0, [[1] * len(p + a) for p, a in rows]),
        )
    )
    loss = model(input_ids=ids, labels=labels, attention_mask=mask).loss
    loss.backward()
    expected = loss.item(), gradient(model)
    method = Raft(options, {"causal-lm": (1.0, CausalLm())})
    for name, layout in LAYOUTS.items():
        check_same(one_step(method, {"policy": model}, [method.batch(made, layout)]), expected, name)
    each = [method.batch([group], LAYOUTS["right"]) for group in made]
    check_same(one_step(method, {"policy": model}, each), expected, "accumulated")


def test_it_trains_the_same_however_it_is_spread(inputs, tmp_path):
    config = online_config(
        inputs, tmp_path, "raft", train={"batch_size": 8, "steps": 2}, optim={"name": "sgd", "lr": 1e-3}
    )
    del config["output"], config["train"]["micro_batch_size"]
    check_method(config, tmp_path)


def test_a_run_stopped_within_a_rollout_goes_on_bit_by_bit(inputs, tmp_path):
    method = {"name": "raft", "steps_per_rollout": 2, "iterations": 2}
    runs = {}
    for name, step in (("whole", 99), ("part", 2)):
        runs[name] = online_config(inputs, tmp_path / name, method, train={"steps": 5})
        runs[name]["callbacks"] = {"interrupt": {"step": step}}
    assert tk.train(runs["whole"]).steps == 5
    assert tk.train(runs["part"]).steps == 3
    tk.train({**runs["part"], "train": {**runs["part"]["train"], "resume": True}})
    whole, part = (load_file(tmp_path / name / "final" / "model.safetensors") for name in runs)
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_a_tiny_model_learns_from_its_best_answers(inputs, tmp_path):
    train = {"steps": 30, "batch_size": 8, "micro_batch_size": 8}
    tk.train(online_config(inputs, tmp_path / "run", "raft", train=train))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    log = [line for line in lines if line["kind"] == "train"]
    assert log[-1]["reward"] > log[0]["reward"] + 0.2
    assert all(line["kept"] == 0.25 and line["kept_reward"] >= line["reward"] for line in log)


def test_a_floor_that_nothing_reaches_trains_nothing(inputs, tmp_path):
    method = {"name": "raft", "floor": 2.0}
    cut = {"max_tokens": 8, "top_p": 0.9}  # answers of a part of the distribution may be learned from
    tk.train(
        online_config(
            inputs, tmp_path / "run", method, train={"steps": 1}, sampling=cut, optim={"name": "sgd", "lr": 1.0}
        )
    )
    after, before = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "run" / "final", inputs / "model")
    )
    assert all(torch.equal(after[name], before[name]) for name in after)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"method": {"name": "raft", "keep": 4}}, "method.keep: of sampling.n 4"),
        ({"sampling": {"n": 1}}, "sampling.n"),
        ({"rewards": {}}, "rewards: none is chosen"),
        ({"losses": {"sigmoid": 1.0}}, "losses.sigmoid: counts by pair"),
    ],
)
def test_what_is_wrong_is_told(inputs, tmp_path, sections, message):
    with pytest.raises(UsageError, match=message):
        tk.train(online_config(inputs, tmp_path / "run", **{"method": "raft", **sections}))
