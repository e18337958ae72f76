"""The pipeline against the ordinary trainer: what both train, what each process holds, going on, and what is refused."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tk
from tk.errors import TkError, UsageError
from tk_conformance.online import PARTS
from tk_conformance.tiny import tiny_checkpoint
from tk_conformance.train_many import train_many

WORDS = ["It is so."] * 3 + ["No.", "That is what they say.", "Who knows?"]
TALKS = [
    {
        "messages": [
            {"role": "user", "content": f"Is {n} odd?"},
            {"role": "assistant", "content": WORDS[n % 6] * (n % 4 + 1)},
        ]
    }
    for n in range(28)
]
PAIRS = [{"prompt": f"Is {n} odd?", "chosen": WORDS[n % 6], "rejected": WORDS[n % 5] + " Perhaps."} for n in range(28)]
CASES = {
    "sft": {"method": "sft", "tuner": "full", "model": "plain"},
    "sft-tied": {"method": "sft", "tuner": "full", "model": "tied"},
    "sft-packed": {"method": "sft", "tuner": "full", "model": "plain", "data": {"packing": True, "max_length": 192}},
    "sft-lora": {"method": "sft", "tuner": "lora", "model": "plain"},
    "sft-lora-tied": {
        "method": "sft",
        "tuner": {"name": "lora", "modules_to_save": ["model.embed_tokens"]},
        "model": "tied",
    },
    "dpo": {"method": "dpo", "tuner": "full", "model": "plain"},
    "dpo-lora": {"method": "dpo", "tuner": "lora", "model": "tied"},
    "reward": {"method": "reward", "tuner": "full", "model": "plain"},
}

REPEATED = """
from tk import MethodSpec, hookimpl
from tk_sft.method import Pretraining

class Repeated(Pretraining):
    def source(self, data, session):
        return type("Twice", (), {"__len__": lambda self: 2 * len(data)})()

@hookimpl
def tk_methods():
    yield MethodSpec(name="repeated", target=Repeated, defaults={"losses": {"causal-lm": 1.0}})
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "plain", vocab=300, layers=3)
    tiny_checkpoint(folder / "tied", vocab=300, layers=3, tie_word_embeddings=True)
    for name, rows in {"sft": TALKS, "dpo": PAIRS, "reward": PAIRS}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def configured(inputs, output, case="sft", **sections):
    """A run of three clipped steps, of four micro-batches each."""
    chosen = CASES[case]
    return {
        "model": str(inputs / chosen["model"]),
        "data": {"sources": {"rows": {"path": str(inputs / f"{chosen['method']}.jsonl")}}, **chosen.get("data", {})},
        "template": "chatml",
        "method": chosen["method"],
        "tuner": chosen["tuner"],
        "optim": {"name": "adamw", "lr": 1e-3},
        "train": {
            "steps": 3,
            "batch_size": 8,
            "micro_batch_size": 2,
            "max_grad_norm": 0.1,
            **sections.pop("train", {}),
        },
        "eval": {"hold_out": 4},
        "report": {"html": False, "plot": False},
        "output": str(output),
        **sections,
    }


@pytest.fixture(scope="module")
def runs(inputs, tmp_path_factory):
    """Each case by the ordinary trainer on one process (`alone`) and by the pipeline on two (`halves`); one of them once
    more, stopped after its second step, and gone on with (`stopped`)."""
    folder = tmp_path_factory.mktemp("runs")
    for case in CASES:
        tk.train(configured(inputs, folder / "alone" / case, case))
    whole = [configured(inputs, folder / "halves" / case, case, trainer="pipeline") for case in CASES]
    stop = {"plugins": {"files": [str(PARTS)]}, "callbacks": {"interrupt": {"step": 1}}}
    part = configured(inputs, folder / "stopped", "sft-tied", trainer="pipeline", **stop)
    train_many([*whole, part, {**part, "train": {**part["train"], "resume": True}}], world=2)
    return folder


def lines(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def record(run):
    return json.loads((run / "run.json").read_text())


def final(run):
    (path,) = (run / "final").glob("*.safetensors")
    return load_file(path)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def check_same(trained, expected):
    assert trained.keys() == expected.keys()
    for name, value in expected.items():
        assert (trained[name] - value).norm() <= 1e-5 * value.norm(), name


@pytest.mark.parametrize("case", CASES)
def test_it_trains_what_the_ordinary_trainer_trains(case, runs):
    alone, halves = runs / "alone" / case, runs / "halves" / case
    for expected, found in zip(lines(alone), lines(halves), strict=True):
        assert (found["kind"], found["step"]) == (expected["kind"], expected["step"])
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        if found["kind"] == "train":
            assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)
            assert found["grad_norm"] > 0.1, "nothing is clipped"
    check_same(final(halves), final(alone))


@pytest.mark.parametrize("case", CASES)
def test_each_process_holds_its_own_layers_only(case, runs):
    run = record(runs / "halves" / case)
    assert run["plan"]["world"] == run["hardware"]["processes"] == len(run["stages"]) == 2
    assert record(runs / "alone" / case)["plan"]["world"] == 1
    first, last = ([name for parts in stage["parts"].values() for name in parts] for stage in run["stages"])
    assert [name.rpartition(".")[2] for name in first][:2] == ["embed_tokens", "0"]
    assert [name.rpartition(".")[2] for name in last][:3] == ["1", "2", "norm"]
    assert not set(first) & set(last)
    shared = {"plain": 0, "tied": 1}[CASES[case]["model"]] * (
        2 if case == "sft-lora-tied" else 1
    )  # a copy and the base's
    twice = shared * 300 * 32
    assert sum(stage["parameters"] for stage in run["stages"]) == run["plan"]["parameters"] + twice


def test_what_it_writes_opens_in_transformers(runs, inputs):
    whole = AutoModelForCausalLM.from_pretrained(runs / "halves/sft/final")
    assert same(dict(whole.state_dict()), final(runs / "halves/sft"))
    ids = torch.arange(3, 30)[None]
    base = AutoModelForCausalLM.from_pretrained(inputs / "plain").eval()
    before = base(ids).logits
    adapted = PeftModel.from_pretrained(base, runs / "halves/sft-lora/final").eval()
    assert not torch.equal(adapted(ids).logits, before)


def test_a_launcher_starts_both_processes(inputs, runs, tmp_path):
    cut = {"name": "pipeline", "first_layers": 2}
    launched = configured(inputs, tmp_path / "run", trainer="pipeline", launcher={"processes": 2}, strategy=cut)
    assert tk.train(launched).steps == 3
    check_same(final(tmp_path / "run"), final(runs / "alone/sft"))
    first, last = (stage["parts"]["policy"] for stage in record(tmp_path / "run")["stages"])
    assert first == ["model.embed_tokens", "model.layers.0", "model.layers.1"]
    assert last == ["model.layers.2", "model.norm", "lm_head"]


def test_a_run_that_was_stopped_goes_on_bit_by_bit(runs):
    run = record(runs / "stopped")
    assert (run["status"], run["resumed_from"], run["result"]["steps"]) == ("finished", 2, 3)
    assert same(final(runs / "stopped"), final(runs / "halves/sft-tied"))


LOSING = """
import os
import signal
from tk import component
from tk.callbacks import Base

@component("callbacks", "losing")
class Losing(Base):
    def on_step(self, control, metrics):
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_lost_is_named(inputs, tmp_path):
    (tmp_path / "losing.py").write_text(LOSING)
    lost = {"plugins": {"files": [str(tmp_path / "losing.py")]}, "callbacks": {"losing": {}}}
    config = configured(inputs, tmp_path / "run", trainer="pipeline", launcher={"processes": 2}, **lost)
    with pytest.raises(TkError, match="Process 1 of 2 was ended by the signal SIGKILL"):
        tk.train(config)
    run = record(tmp_path / "run")
    assert run["status"] == "failed"
    assert "TkError: Process 0 of 2 cannot go on without process 1" in run["error"]


def test_what_a_callback_refuses_is_saved(inputs, tmp_path):
    refused = {"callbacks": {"best-checkpoints": {"metric": "acc"}}, "eval": {"hold_out": 4, "at_start": False}}
    config = configured(inputs, tmp_path / "run", trainer="pipeline", launcher={"processes": 2}, **refused)
    with pytest.raises(UsageError):
        tk.train(config)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000003"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"strategy": "ddp"}, "trainer needs 'acme-tk-pipeline:stages', which strategy .ddp"),
        ({"strategy": {"name": "pipeline", "first_layers": 3}}, "strategy.first_layers: .* has 3 layers"),
        ({"launcher": {"processes": 3}}, "two processes, not on 3: --launcher.processes 2"),
        ({"train": {"compile": True}}, "train.compile needs 'compile', which trainer"),
        ({"train": {"neftune_alpha": 5.0}}, "train.neftune_alpha needs 'embedding-noise', which trainer"),
        ({"train": {"precision": "bf16"}}, "train.precision"),
        ({"eval": {"hold_out": 4, "generate": 1}}, "eval.generate"),
        ({"method": {"name": "dpo", "precompute_reference": True}}, "method dpo precomputes the reference"),
        ({"method": "embedding"}, "rows see each other in losses"),
        ({"method": "ppo"}, "the critic of method ppo is a head on the policy"),
        ({"method": "grpo", "rewards": {"letters": 1.0}}, "nothing is rewarded .rewards: letters"),
        ({"method": "repeated"}, "method repeated has a source of its own"),
    ],
)
def test_what_it_cannot_carry_is_refused(sections, message, inputs, tmp_path):
    (tmp_path / "repeated.py").write_text(REPEATED)
    plugins = {"files": [str(PARTS), str(tmp_path / "repeated.py")]}
    config = configured(inputs, tmp_path / "run", trainer="pipeline", launcher={"processes": 2}, plugins=plugins)
    with pytest.raises(UsageError, match=message):
        tk.plan({**config, **sections})


def test_other_trainers_are_not_given_its_strategy(inputs, tmp_path):
    with pytest.raises(UsageError, match="strategy needs 'acme-tk-pipeline:stages', which trainer"):
        tk.plan({**configured(inputs, tmp_path / "run"), "strategy": "pipeline"})


def test_a_model_of_other_parts_is_refused(inputs, tmp_path):
    tiny_checkpoint(tmp_path / "model", "gpt2", vocab=300)
    config = configured(inputs, tmp_path / "run", trainer="pipeline", launcher={"processes": 2})
    with pytest.raises(UsageError, match="GPT2LMHeadModel is not made of embeddings, layers, a norm and a head"):
        tk.plan({**config, "model": str(tmp_path / "model")})


def test_a_model_that_does_more_than_to_call_its_parts_is_refused(inputs, tmp_path, capfd):
    tiny_checkpoint(tmp_path / "model", "granite", vocab=300, embedding_multiplier=2.0)
    config = configured(inputs, tmp_path / "run", trainer="pipeline", launcher={"processes": 2})
    with pytest.raises(TkError):
        tk.train({**config, "model": str(tmp_path / "model")})
    assert "GraniteForCausalLM, cut in two, computes something else" in capfd.readouterr().err
