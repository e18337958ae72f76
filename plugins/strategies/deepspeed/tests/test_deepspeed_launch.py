"""How a run under DeepSpeed is started, and what is told where it cannot be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import tk
from tk import launching, setup
from tk.errors import TkError, UsageError
from tk_conformance.tiny import tiny_run
from tk_deepspeed.environment import environment
from tk_deepspeed.loading import imported
from tk_deepspeed.options import DeepspeedOptions

needs = pytest.mark.usefixtures("processes")


def config(folder: Path, **sections: Any) -> dict[str, Any]:
    rows = [{"prompt": f"{i}?", "completion": f"It is {i * i}."} for i in range(16)]
    strategy = {"name": "deepspeed", "preset": "zero3", "accelerator": "cpu"}
    return tiny_run(folder, rows, **{"strategy": strategy, "output": str(folder / "run"), **sections})


@pytest.mark.slow
@needs
def test_one_process_too_is_started_with_the_environment_that_deepspeed_needs(tmp_path: Path) -> None:
    result = tk.train(config(tmp_path))
    assert result.steps == 3
    assert json.loads((tmp_path / "run/run.json").read_text())["plan"]["world"] == 1
    assert (tmp_path / "run/final/adapter_model.safetensors").is_file()


@needs
@pytest.mark.slow
def test_a_config_of_ones_own_makes_an_engine_that_trains_the_same(tmp_path: Path) -> None:
    own = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
        },
        "zero_optimization": {
            "stage": 3,
            "contiguous_gradients": True,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
        },
    }
    (tmp_path / "ds.json").write_text(json.dumps(own))
    strategy = {"name": "deepspeed", "config": str(tmp_path / "ds.json"), "accelerator": "cpu"}
    common = {"optim": {"name": "adamw", "lr": 1e-3}, "tuner": "full"}
    spread = config(tmp_path, strategy=strategy, launcher={"processes": 2}, **common)
    alone = config(tmp_path, strategy="ddp", output=str(tmp_path / "alone"), **common)
    losses = [tk.train(each).metrics["loss"] for each in (spread, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    theirs, ours = (load_file(tmp_path / name / "final/model.safetensors") for name in ("run", "alone"))
    assert max(float((theirs[name] - value).norm() / value.norm()) for name, value in ours.items()) < 1e-5


@needs
@pytest.mark.slow
def test_the_command_prints_the_result_and_nothing_of_deepspeeds(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config(tmp_path)))
    command = [
        sys.executable,
        "-m",
        "tk",
        "train",
        "-c",
        str(tmp_path / "config.json"),
        "--launcher.processes",
        "2",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["steps"] == 3
    assert "deprecated" not in done.stderr


@needs
@pytest.mark.slow
def test_where_deepspeed_is_installed_it_prints_nothing_into_a_result_without_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config(tmp_path, strategy="ddp", tuner="full")))
    command = [sys.executable, "-m", "tk", "train", "-c", str(tmp_path / "config.json"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["steps"] == 3


@needs
def test_what_a_launcher_starts_is_shown(tmp_path: Path) -> None:
    plan = setup.plan(setup.Given(values=[config(tmp_path)]))
    launcher = launching.launcher_of(plan)
    assert launcher is not None
    assert re.match(r"1 process of: env DS_ACCELERATOR=cpu \S+ -m tk train -c", launching.shown(plan, launcher))
    plain = setup.plan(setup.Given(values=[config(tmp_path, strategy="ddp")]))
    assert launching.launcher_of(plain) is None
    assert launching.environment_of(plain) == {}


@needs
def test_the_programs_beside_the_interpreter_are_found_besides_those_of_the_processs_own_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it runs, which may be another machine than the one that it was started from."""
    assert environment(DeepspeedOptions()) == {}
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("PATH", "/opt/modules/bin")
    monkeypatch.setenv("CXX", "/bin/sh")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(TkError, match="there is no 'ninja'"):
        imported("cpu")
    assert os.environ["PATH"] == f"/opt/modules/bin{os.pathsep}{tmp_path}"


def test_without_deepspeed_the_mend_is_told_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as where there is none
    with pytest.raises(TkError, match=r"pip install --no-build-isolation 'tk-plugin-deepspeed\[deepspeed\]'"):
        tk.train(config(tmp_path))
    assert not (tmp_path / "run").exists()


@needs
def test_a_process_without_torchruns_environment_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="LOCAL_RANK, which is not set: start the run by `tk train`"):
        imported("cpu")


@needs
@pytest.mark.parametrize(
    ("path", "compiler", "told"), [("", "c++", "'c\\+\\+'.*install g\\+\\+"), ("", "/bin/sh", "'ninja'")]
)
def test_a_missing_compiler_is_told_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, compiler: str, told: str
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(TkError, match=f"there is no {told}"):
        imported("cpu")


@needs
@pytest.mark.slow
def test_an_accelerator_that_deepspeed_does_not_know_is_told_in_its_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TkError, match="Process 0 of 1 failed"):
        tk.train(config(tmp_path, strategy={"name": "deepspeed", "accelerator": "abacus"}))
    assert "DeepSpeed cannot be loaded: DS_ACCELERATOR must be one of" in capfd.readouterr().err


def test_an_optimizer_that_reads_whole_tensors_is_refused_with_the_plan(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"strategy needs 'elementwise', which optim \(adafactor of"):
        setup.plan(setup.Given(values=[config(tmp_path, optim="adafactor")]))


def test_a_config_that_cannot_work_is_told_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(
        json.dumps({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/disk"}}})
    )
    strategy = {"name": "deepspeed", "config": str(tmp_path / "ds.json")}
    with pytest.raises(UsageError, match=r"offload_param.device: only \"cpu\" works here, not 'nvme'"):
        environment(DeepspeedOptions(config=strategy["config"]))
