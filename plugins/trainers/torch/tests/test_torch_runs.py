"""What a run says, reads and leaves in its folder, and how it computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import tk
from tk import api
from tk.errors import TkError, TkWarning, UsageError
from tk_conformance.methods import check_method
from tk_conformance.tiny import tiny_checkpoint

Configured = Callable[..., dict[str, Any]]


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_folder_with_another_run_is_refused_before_any_work(configured: Configured, tmp_path: Path) -> None:
    tk.train(configured(tmp_path / "run"))
    before = (tmp_path / "run/run.json").read_bytes()
    nonsense = configured(tmp_path / "run", data="no-such-file.jsonl")
    with pytest.raises(UsageError, match="holds another run"):
        tk.train(nonsense)
    assert (tmp_path / "run/run.json").read_bytes() == before
    (tmp_path / "mine" / "tensorboard").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"holds another run \(tensorboard\)"):
        tk.train(configured(tmp_path / "mine", trackers={"tensorboard": {}}))
    again = configured(tmp_path / "run", train={"steps": 2})
    result = tk.train({**again, "output": {"dir": str(tmp_path / "run"), "overwrite": True}})
    assert [c.step for c in result.checkpoints] == [2]


def test_files_of_others_stay(configured: Configured, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.tmp").write_text("mine")
    tk.train(configured(tmp_path / "run", train={"steps": 1}))
    assert (tmp_path / "run" / "notes.tmp").read_text() == "mine"


@pytest.mark.parametrize(
    ("sections", "has"), [({"callbacks": {"early-stopping": {}}}, "none"), ({"eval": {"hold_out": 4}}, "loss")]
)
def test_a_figure_that_will_never_be_there_is_told_before_the_first_step(
    configured: Configured, tmp_path: Path, sections: dict[str, Any], has: str
) -> None:
    config = configured(tmp_path / "run", callbacks={"best-checkpoints": {"metric": "acc"}})
    with pytest.raises(UsageError, match=rf"callbacks\.\S+metric: the evaluation has no figure .* \(it has: {has}"):
        tk.train({**config, **sections})
    assert not (tmp_path / "run").exists()


def test_a_bad_row_leaves_nothing_behind(configured: Configured, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": "?"}]}\n{"messages": 3}\n')
    with pytest.raises(TkError, match=r"bad\.jsonl:\d"):
        tk.train(configured(tmp_path / "run", data=str(tmp_path / "bad.jsonl")))
    assert not (tmp_path / "run").exists()


def test_a_prompt_without_room_for_an_answer_is_not_shown_and_told(
    configured: Configured, inputs: Path, tmp_path: Path
) -> None:
    long = {"messages": [{"role": "user", "content": "7" * 600}, {"role": "assistant", "content": "Long."}]}
    (tmp_path / "held.jsonl").write_text(json.dumps(long) + "\n" + (inputs / "rows.jsonl").read_text())
    data = {"sources": {"rows": {"path": str(inputs / "rows.jsonl")}}, "truncation": "left"}
    held = {"sources": {"held": {"path": str(tmp_path / "held.jsonl"), "first": 2}}, "generate": 2, "max_new_tokens": 2}
    with pytest.warns(TkWarning, match=r"eval.generate: .*held.jsonl:1 is not shown: its prompt fills the model's 512"):
        result = tk.train(configured(tmp_path / "run", data=data, eval=held, train={"steps": 1}))
    assert len(result.samples) == 1


def test_a_run_says_what_it_was(configured: Configured, tmp_path: Path) -> None:
    config = configured(
        tmp_path / "run",
        eval={"hold_out": 6, "generate": 2, "max_new_tokens": 3},
        trackers={"tensorboard": {}},
        report={"html": True, "plot": True},
    )
    result = tk.train(config)
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["status"] == "finished"
    assert run["config"]["optim"]["lr"] == 1e-2
    assert run["data"][0]["rows"] == run["plan"]["rows"] == 18
    assert {"train"} == set(run["seeds"])
    assert any(p["distribution"] == "tk-plugin-torch" for p in run["plugins"])
    assert set(run["evals"]["last"]["held_out"]) >= {"loss", "loss_low", "loss_high", "rows"}
    assert run["evals"]["last"]["held_out"]["rows"] == 6
    assert [set(s) for s in run["samples"]] == [{"prompt", "reference", "before", "after"}] * 2
    assert run["result"]["tokens"] == result.tokens > 0
    assert result.peak_memory > 2**20
    assert (tmp_path / "run/report.html").stat().st_size > 1000
    assert (tmp_path / "run/loss.png").is_file()
    assert list((tmp_path / "run/tensorboard").iterdir())
    saved = tk.load_config(run=tmp_path / "run")
    assert saved.train.steps == 6
    assert not saved.train.resume


def test_secrets_stand_in_the_config_alone(configured: Configured, tmp_path: Path) -> None:
    judge = {"name": "vllm", "python": "/elsewhere/python", "env": {"HF_TOKEN": "hf_secret"}}
    other = {"name": "openai", "url": "https://me:hf_secret@example.org/v1", "model": "m"}
    trackers, engines = {"tensorboard": {}}, {"judge": judge, "other": other}
    tk.train(configured(tmp_path / "run", train={"steps": 2, "save_every": 1}, trackers=trackers, engines=engines))
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert [path.name for path in files if b"hf_secret" in path.read_bytes()] == ["config.yaml"]
    assert (tmp_path / "run/config.yaml").stat().st_mode & 0o077 == 0
    assert any(b"engines.judge.env.HF_TOKEN" in path.read_bytes() for path in files)
    again = tk.load_config(run=tmp_path / "run")
    assert again.groups["engines"]["judge"].options.env == {"HF_TOKEN": "hf_secret"}
    tk.train(run=tmp_path / "run", train={"steps": 2, "resume": True})


def test_a_plan_reads_no_weights(configured: Configured, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    tiny_checkpoint(broken, "llama", vocab=300)
    (broken / "model.safetensors").write_bytes(b"")
    plan = api.plan({**configured(tmp_path / "run"), "model": str(broken)})
    assert (plan.rows, plan.steps, plan.batch_size, plan.accumulation) == (24, 6, 4, 2)
    assert 0 < plan.trainable < plan.parameters
    assert plan.tokens > plan.supervised > 0
    assert not (tmp_path / "run").exists()


# --- how it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_close_to_single_precision(
    configured: Configured, tmp_path: Path, precision: str
) -> None:
    exact = tk.train(configured(tmp_path / "exact", eval={"hold_out": 8}))
    near = tk.train(configured(tmp_path / "near", eval={"hold_out": 8}, train={"precision": precision}))
    assert near.evals["loss"] == pytest.approx(exact.evals["loss"], rel=2e-2)
    assert near.evals["loss"] < near.first["loss"]


def test_recomputed_activations_change_nothing(configured: Configured, tmp_path: Path) -> None:
    tk.train(configured(tmp_path / "kept"))
    tk.train(configured(tmp_path / "again", train={"gradient_checkpointing": True}))
    kept, again = (load_file(tmp_path / name / "final/adapter_model.safetensors") for name in ("kept", "again"))
    assert all(torch.allclose(kept[name], again[name], rtol=1e-5, atol=1e-7) for name in kept)


def test_packing_is_refused_for_a_model_whose_layers_mix_samples(
    configured: Configured, inputs: Path, tmp_path: Path
) -> None:
    tiny_checkpoint(tmp_path / "mamba", "mamba", vocab=300)
    config = configured(
        tmp_path / "run",
        model=str(tmp_path / "mamba"),
        tuner="full",
        data={"sources": {"a": {"path": str(inputs / "rows.jsonl")}}, "packing": True, "max_length": 64},
    )
    with pytest.raises(UsageError, match="mamba"):
        tk.train(config)


def test_gradients_that_are_never_finite_end_the_run(configured: Configured, tmp_path: Path) -> None:
    config = configured(
        tmp_path / "run",
        optim={"name": "sgd", "lr": 1e30},
        train={"steps": 40, "on_nan": "skip"},
        trainer={"name": "torch", "max_skipped": 3},
        tuner="full",
    )
    with pytest.raises(TkError, match="3 steps in a row were not finite"):
        tk.train(config)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert lines[-1]["grad_norm"] is None


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_left_out_on_every_process(
    configured: Configured, inputs: Path, tmp_path: Path
) -> None:
    """One row is a trap: the step that it is in changes nothing, wherever the row is, and the run goes on."""
    rows = [json.loads(line) for line in (inputs / "rows.jsonl").read_text().splitlines()]
    rows[9]["messages"][1]["content"] += "~"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tiny_checkpoint(tmp_path / "model", "llama", vocab=300)
    (token,) = AutoTokenizer.from_pretrained(inputs / "model")("~", add_special_tokens=False)["input_ids"]
    config = configured(
        tmp_path,
        model=str(model),
        data=str(tmp_path / "rows.jsonl"),
        losses={"trap": {"token": token}},
        tuner={"name": "lora", "rank": 2},
        optim={"name": "sgd", "lr": 1e-2},
        train={"on_nan": "skip"},
    )
    del config["output"], config["train"]["micro_batch_size"]
    check_method(config, tmp_path, strategies=("ddp", "fsdp"))
    for name in ("whole", "accumulated", "ddp", "fsdp"):
        assert json.loads((tmp_path / name / "run.json").read_text())["result"]["dropped"] == 1
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        assert sum(line["grad_norm"] is None for line in lines) == 1


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_rows(configured: Configured, tmp_path: Path) -> None:
    config = configured(tmp_path / "run", optim={"name": "sgd", "lr": 1e30}, train={"steps": 40}, tuner="full")
    with pytest.raises(TkError, match=r"^step \d: the loss is not finite\. Rows: .*rows\.jsonl:\d+, .*lower optim\.lr"):
        tk.train(config)
