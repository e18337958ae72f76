"""What befalls a run: kills, signals, broken checkpoints, full disks, other configs; and what it leaves behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
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
from tk_parallel.testing import run_processes

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "model", "llama", vocab=300, attention_dropout=0.1)
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"It is {i * i}."}]}
        for i in range(24)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _config(inputs: Path, output: Path, **sections: Any) -> dict[str, Any]:
    train = {"steps": 6, "batch_size": 4, "micro_batch_size": 2, "save_every": 2, **sections.pop("train", {})}
    return {
        "model": str(inputs / "model"),
        "data": str(inputs / "rows.jsonl"),
        "tuner": {"name": "lora", "rank": 2, "dropout": 0.1},
        "optim": {"name": "adamw", "lr": 1e-2},
        "train": train,
        "report": {"html": False, "plot": False},
        "plugins": {"files": [str(HERE / "run_callbacks.py")]},
        "output": str(output),
        **sections,
    }


def _weights(run: Path) -> dict[str, torch.Tensor]:
    loaded = load_file(sorted((run / "checkpoints").glob("step-*"))[-1] / "weights.safetensors")
    return {name: value.clone() for name, value in loaded.items()}  # not mapped to a file that a test goes on to harm


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _resumed(config: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {**config, "train": {**config["train"], "resume": True}, **sections}


# --- kills -----------------------------------------------------------------------------------------------------------


def _kill(inputs: Path, tmp_path: Path, *moments: str) -> str:
    config = _config(
        inputs,
        tmp_path,
        train={"keep_last": 2},
        eval={"hold_out": 4, "every": 3},
        callbacks={"halve-at": {"step": 3}, "best-checkpoints": {}},
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = (str(tmp_path / "config.json"), str(tmp_path), *moments)
    return run_processes(HERE / "killed_runs.py", *arguments, world=1, timeout=500)[0].stdout


def test_a_killed_run_goes_on_bit_by_bit(inputs: Path, tmp_path: Path) -> None:
    """Killed at its first write, before a checkpoint gets its name (the third and fourth rename are config and log), and late."""
    told = _kill(inputs, tmp_path, "1", "rename:4", "rename:5", "random:1:0")
    assert "had []" in told


@pytest.mark.slow
def test_a_run_killed_at_20_moments_goes_on_bit_by_bit(inputs: Path, tmp_path: Path) -> None:
    assert len(_kill(inputs, tmp_path, "random:20:7").splitlines()) == 20


# --- signals and callbacks -------------------------------------------------------------------------------------------


def test_sigterm_ends_the_run_after_a_whole_step_and_resume_makes_up_for_it(inputs: Path, tmp_path: Path) -> None:
    whole = tk.train(_config(inputs, tmp_path / "whole", callbacks={"signal-at": {"step": 99}}))
    assert not whole.stopped
    config = _config(inputs, tmp_path / "run", callbacks={"signal-at": {"step": 2}})  # seen when step 3 is done
    before = signal.getsignal(signal.SIGTERM)
    stopped = tk.train(config)
    assert signal.getsignal(signal.SIGTERM) == before
    assert (stopped.stopped, stopped.steps) == ("SIGTERM", 3)
    assert not (tmp_path / "run/final").exists()
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "stopped"
    resumed = tk.train(_resumed(config))
    assert (resumed.stopped, resumed.steps) == ("", 6)
    assert _same(_weights(tmp_path / "run"), _weights(tmp_path / "whole"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_two_processes_agree_on_a_signal_that_one_of_them_got(inputs: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import json, sys, tk\nprint(tk.train(json.load(open(sys.argv[1]))))\n")
    config = _config(inputs, tmp_path / "run", callbacks={"signal-at": {"step": 2, "rank": "1"}})
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run_processes(script, str(tmp_path / "config.json"), world=2)
    assert all("steps=3" in p.stdout and "stopped='SIGTERM'" in p.stdout for p in done)


def test_processes_with_different_configs_are_refused(inputs: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys, tk\n"
        "config = json.load(open(sys.argv[1]))\n"
        "config['train']['seed'] = int(os.environ['RANK'])\n"
        "tk.train(config)\n"
    )
    (tmp_path / "config.json").write_text(json.dumps(_config(inputs, tmp_path / "run")))
    done = run_processes(script, str(tmp_path / "config.json"), world=2, expect=1)
    assert all("different config: rank 1" in p.stderr for p in done)
    assert not (tmp_path / "run").exists()


def test_a_callback_ends_the_run_as_if_it_had_come_to_its_end(inputs: Path, tmp_path: Path) -> None:
    config = _config(inputs, tmp_path / "run", callbacks={"stop-at": {"step": 3}}, eval={"hold_out": 4})
    result = tk.train(config)
    assert (result.stopped, result.steps) == ("enough", 3)
    assert (tmp_path / "run/final/adapter_model.safetensors").is_file()
    assert result.evals != result.first
    assert tk.train(_resumed(config)).steps == 3


def test_callbacks_scale_the_rate_and_keep_checkpoints_over_a_resume(inputs: Path, tmp_path: Path) -> None:
    config = _config(
        inputs, tmp_path / "run", train={"keep_last": 1}, callbacks={"halve-at": {}}, scheduler={"name": "constant"}
    )
    result = tk.train(config)
    rates = [json.loads(line)["lr"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([1e-2] * 3 + [5e-3] * 3)
    assert [c.step for c in result.checkpoints] == [2, 6]
    state = json.loads((tmp_path / "run/checkpoints/step-00000006/state.json").read_text())["callbacks"]
    assert state["each"]["halve-at"]["state"]["steps"] == 6
    assert state["lr_scale"] == 0.5


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete", "manifest"])
def test_a_broken_newest_checkpoint_is_told_and_the_one_before_used(inputs: Path, tmp_path: Path, harm: str) -> None:
    config = _config(inputs, tmp_path / "run")
    tk.train(config)
    expected = _weights(tmp_path / "run")
    newest = tmp_path / "run/checkpoints/step-00000006"
    file = newest / ("manifest.json" if harm == "manifest" else "weights.safetensors")
    content = bytearray(file.read_bytes())
    if harm == "delete":
        file.unlink()
    else:
        content[-9] ^= 1
        file.write_bytes(content[:-5] if harm in ("truncate", "manifest") else content)
    with pytest.warns(TkWarning, match="step-00000006: this checkpoint is not whole"):
        result = tk.train(_resumed(config))
    assert json.loads((tmp_path / "run/run.json").read_text())["resumed_from"] == 4
    assert result.steps == 6
    assert _same(_weights(tmp_path / "run"), expected)


def test_resuming_with_another_config_names_what_differs(inputs: Path, tmp_path: Path) -> None:
    config = _config(inputs, tmp_path / "run")
    tk.train(config)
    with pytest.raises(UsageError, match=r"optim\.lr \(was 0\.01, is 0\.02\)"):
        tk.train(_resumed(config, optim={"name": "adamw", "lr": 2e-2}))
    tk.train(_resumed(config, report={"html": True, "plot": False}))


def test_resume_without_a_checkpoint_begins_anew(inputs: Path, tmp_path: Path) -> None:
    config = _config(inputs, tmp_path / "run")
    first = tk.train(_resumed(config))
    second = tk.train(_config(inputs, tmp_path / "other"))
    assert first.steps == 6
    assert _same(_weights(first.output), _weights(second.output))


@pytest.mark.parametrize("left", ["final", "a broken checkpoint"])
def test_resume_deletes_nothing_that_was_trained(inputs: Path, tmp_path: Path, left: str) -> None:
    config = _config(inputs, tmp_path / "run", train={"steps": 2})
    tk.train(config)
    if left == "final":
        shutil.rmtree(tmp_path / "run/checkpoints")
    else:
        shutil.rmtree(tmp_path / "run/final")
        (tmp_path / "run/checkpoints/step-00000002/manifest.json").unlink()
    before = set((tmp_path / "run").rglob("*"))
    with pytest.raises(UsageError, match="--resume: .*run has been trained, and there is no whole checkpoint"):
        tk.train(_resumed(config))
    assert set((tmp_path / "run").rglob("*")) == before


def test_a_run_that_went_on_keeps_no_later_checkpoint(inputs: Path, tmp_path: Path) -> None:
    config = _config(inputs, tmp_path / "run")
    tk.train({**config, "callbacks": {"signal-at": {"step": 3}}})
    (tmp_path / "run/checkpoints/step-00000009").mkdir()
    with pytest.warns(TkWarning, match="step-00000009"):
        tk.train(_resumed({**config, "callbacks": {"signal-at": {"step": 3}}}))
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-00000004", "step-00000006"]


def test_a_run_goes_on_where_its_folder_is_now(inputs: Path, tmp_path: Path) -> None:
    tk.train(_config(inputs, tmp_path / "before", callbacks={"signal-at": {"step": 1}}))
    (tmp_path / "before").rename(tmp_path / "after")
    result = tk.train(run=tmp_path / "after", train={"resume": True})
    assert (result.output, result.steps) == (tmp_path / "after", 6)
    assert not (tmp_path / "before").exists()
    assert json.loads((tmp_path / "after/run.json").read_text())["resumed_from"] == 2


def test_what_a_callback_refuses_ends_the_run_and_keeps_what_it_has_learnt(inputs: Path, tmp_path: Path) -> None:
    """Without a first evaluation the figures are not known before the end."""
    config = _config(inputs, tmp_path / "run", train={"save_every": None}, eval={"hold_out": 4, "at_start": False})
    with pytest.raises(UsageError, match="has no figure 'acc'"):
        tk.train({**config, "callbacks": {"best-checkpoints": {"metric": "acc"}}})
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000006"]


def test_resume_on_other_rows_is_refused(inputs: Path, tmp_path: Path) -> None:
    rows = (inputs / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    config = _config(inputs, tmp_path / "run", data=str(tmp_path / "rows.jsonl"))
    tk.train(config)
    (tmp_path / "rows.jsonl").write_text("\n".join(reversed(rows)) + "\n")
    with pytest.raises(TkError, match="was trained on other rows than the data holds now"):
        tk.train(_resumed(config))


def test_checkpoints_of_weights_only_are_smaller_and_not_resumed(inputs: Path, tmp_path: Path) -> None:
    config = _config(inputs, tmp_path / "run", train={"weights_only": True})
    tk.train(config)
    assert not list((tmp_path / "run").rglob("optimizer.safetensors"))
    with pytest.raises(UsageError, match="weights only"):
        tk.train(_resumed(config))


@pytest.mark.parametrize("where", ["", "final", "checkpoints/step-00000006"])
def test_a_run_starts_from_the_weights_of_another(inputs: Path, tmp_path: Path, where: str) -> None:
    first = tk.train(_config(inputs, tmp_path / "first", eval={"hold_out": 4}))
    start = {"start_from": str(tmp_path / "first" / where), "steps": 1}
    second = tk.train(_config(inputs, tmp_path / "second", eval={"hold_out": 4}, train=start))
    assert second.first["loss"] == pytest.approx(first.evals["loss"], rel=1e-6)


def test_starting_from_what_is_no_run_is_a_usage_error(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.start_from"):
        tk.train(_config(inputs, tmp_path / "run", train={"start_from": str(tmp_path / "nothing")}))
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_one_error_and_leaves_the_older_checkpoint(inputs: Path, tmp_path: Path) -> None:
    config = _config(inputs, tmp_path / "run", train={"steps": 2})
    tk.train(config)
    config = _config(inputs, tmp_path / "run2", tuner={"name": "full"}, train={"steps": 2})
    child = os.fork()
    if not child:  # the limit on the size of files holds for the rest of a process
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        try:
            tk.train(config)
        except TkError as error:
            os._exit(7 if "checkpoints/step-00000002: cannot be written" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not list((tmp_path / "run2/checkpoints").iterdir())
    assert json.loads((tmp_path / "run2/run.json").read_text())["status"] == "failed"


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_folder_with_another_run_is_refused_before_any_work(inputs: Path, tmp_path: Path) -> None:
    tk.train(_config(inputs, tmp_path / "run"))
    before = (tmp_path / "run/run.json").read_bytes()
    nonsense = _config(inputs, tmp_path / "run", data="no-such-file.jsonl")
    with pytest.raises(UsageError, match="holds another run"):
        tk.train(nonsense)
    assert (tmp_path / "run/run.json").read_bytes() == before
    (tmp_path / "mine" / "tensorboard").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"holds another run \(tensorboard\)"):
        tk.train(_config(inputs, tmp_path / "mine", trackers={"tensorboard": {}}))
    again = _config(inputs, tmp_path / "run", train={"steps": 2})
    result = tk.train({**again, "output": {"dir": str(tmp_path / "run"), "overwrite": True}})
    assert [c.step for c in result.checkpoints] == [2]


def test_files_of_others_stay(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.tmp").write_text("mine")
    tk.train(_config(inputs, tmp_path / "run", train={"steps": 1}))
    assert (tmp_path / "run" / "notes.tmp").read_text() == "mine"


@pytest.mark.parametrize(
    ("sections", "has"), [({"callbacks": {"early-stopping": {}}}, "none"), ({"eval": {"hold_out": 4}}, "loss")]
)
def test_a_figure_that_will_never_be_there_is_told_before_the_first_step(
    inputs: Path, tmp_path: Path, sections: dict[str, Any], has: str
) -> None:
    config = _config(inputs, tmp_path / "run", callbacks={"best-checkpoints": {"metric": "acc"}})
    with pytest.raises(UsageError, match=rf"callbacks\.\S+metric: the evaluation has no figure .* \(it has: {has}"):
        tk.train({**config, **sections})
    assert not (tmp_path / "run").exists()


def test_a_bad_row_leaves_nothing_behind(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": "?"}]}\n{"messages": 3}\n')
    with pytest.raises(TkError, match=r"bad\.jsonl:\d"):
        tk.train(_config(inputs, tmp_path / "run", data=str(tmp_path / "bad.jsonl")))
    assert not (tmp_path / "run").exists()


def test_a_prompt_without_room_for_an_answer_is_not_shown_and_told(inputs: Path, tmp_path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "7" * 600}, {"role": "assistant", "content": "Long."}]}
    (tmp_path / "held.jsonl").write_text(json.dumps(long) + "\n" + (inputs / "rows.jsonl").read_text())
    data = {"sources": {"rows": {"path": str(inputs / "rows.jsonl")}}, "truncation": "left"}
    held = {"sources": {"held": {"path": str(tmp_path / "held.jsonl"), "first": 2}}, "generate": 2, "max_new_tokens": 2}
    with pytest.warns(TkWarning, match=r"eval.generate: .*held.jsonl:1 is not shown: its prompt fills the model's 512"):
        result = tk.train(_config(inputs, tmp_path / "run", data=data, eval=held, train={"steps": 1}))
    assert len(result.samples) == 1


def test_a_run_says_what_it_was(inputs: Path, tmp_path: Path) -> None:
    config = _config(
        inputs,
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


def test_a_plan_reads_no_weights(inputs: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    tiny_checkpoint(broken, "llama", vocab=300)
    (broken / "model.safetensors").write_bytes(b"")
    plan = api.plan({**_config(inputs, tmp_path / "run"), "model": str(broken)})
    assert (plan.rows, plan.steps, plan.batch_size, plan.accumulation) == (24, 6, 4, 2)
    assert 0 < plan.trainable < plan.parameters
    assert plan.tokens > plan.supervised > 0
    assert not (tmp_path / "run").exists()


# --- how it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_close_to_single_precision(inputs: Path, tmp_path: Path, precision: str) -> None:
    exact = tk.train(_config(inputs, tmp_path / "exact", eval={"hold_out": 8}))
    near = tk.train(_config(inputs, tmp_path / "near", eval={"hold_out": 8}, train={"precision": precision}))
    assert near.evals["loss"] == pytest.approx(exact.evals["loss"], rel=2e-2)
    assert near.evals["loss"] < near.first["loss"]


def test_recomputed_activations_change_nothing(inputs: Path, tmp_path: Path) -> None:
    tk.train(_config(inputs, tmp_path / "kept"))
    tk.train(_config(inputs, tmp_path / "again", train={"gradient_checkpointing": True}))
    kept, again = _weights(tmp_path / "kept"), _weights(tmp_path / "again")
    assert all(torch.allclose(kept[name], again[name], rtol=1e-5, atol=1e-7) for name in kept)


def test_packing_is_refused_for_a_model_whose_layers_mix_samples(inputs: Path, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "mamba", "mamba", vocab=300)
    config = _config(
        inputs,
        tmp_path / "run",
        model=str(tmp_path / "mamba"),
        tuner="full",
        data={"sources": {"a": {"path": str(inputs / "rows.jsonl")}}, "packing": True, "max_length": 64},
    )
    with pytest.raises(UsageError, match="mamba"):
        tk.train(config)


def test_gradients_that_are_never_finite_end_the_run(inputs: Path, tmp_path: Path) -> None:
    config = _config(
        inputs,
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


def test_a_step_that_is_not_finite_is_left_out_on_every_process(inputs: Path, tmp_path: Path) -> None:
    """One row is a trap: the step that it is in changes nothing, wherever the row is, and the run goes on."""
    rows = [json.loads(line) for line in (inputs / "rows.jsonl").read_text().splitlines()]
    rows[9]["messages"][1]["content"] += "~"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tiny_checkpoint(tmp_path / "model", "llama", vocab=300)
    (token,) = AutoTokenizer.from_pretrained(inputs / "model")("~", add_special_tokens=False)["input_ids"]
    config = _config(
        inputs,
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


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_rows(inputs: Path, tmp_path: Path) -> None:
    config = _config(inputs, tmp_path / "run", optim={"name": "sgd", "lr": 1e30}, train={"steps": 40}, tuner="full")
    with pytest.raises(TkError, match=r"^step \d: the loss is not finite\. Rows: .*rows\.jsonl:\d+, .*lower optim\.lr"):
        tk.train(config)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_resume_bit_by_bit_and_one_goes_on_from_two(inputs: Path, tmp_path: Path, strategy: str) -> None:
    script = tmp_path / "script.py"
    script.write_text("import json, sys, tk\nfor config in json.load(open(sys.argv[1])):\n    tk.train(config)\n")
    small = {"strategy": strategy, "eval": {"hold_out": 5}}
    whole = _config(inputs, tmp_path / "whole", callbacks={"signal-at": {"step": 99}}, **small)
    part = _config(inputs, tmp_path / "part", callbacks={"signal-at": {"step": 3}}, **small)
    (tmp_path / "two.json").write_text(json.dumps([whole, part, _resumed(part)]))
    run_processes(script, str(tmp_path / "two.json"), world=2, timeout=300)
    assert _same(_weights(tmp_path / "part"), _weights(tmp_path / "whole"))

    again = _config(inputs, tmp_path / "again", callbacks={"signal-at": {"step": 3}}, tuner="full", **small)
    (tmp_path / "stop.json").write_text(json.dumps([again]))
    run_processes(script, str(tmp_path / "stop.json"), world=2, timeout=300)
    result = tk.train(_resumed(again))
    assert result.steps == 6
    assert not torch.distributed.is_initialized()
