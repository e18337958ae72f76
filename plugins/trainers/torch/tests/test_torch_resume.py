"""A run that ends early, and one that goes on from it: kills, signals, callbacks, broken checkpoints, other configs."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tk
from tk.errors import TkError, TkWarning, UsageError
from tk_conformance.tiny import tiny_checkpoint
from tk_parallel.testing import run_processes

HERE = Path(__file__).parent
Configured = Callable[..., dict[str, Any]]


def _weights(run: Path) -> dict[str, torch.Tensor]:
    loaded = load_file(sorted((run / "checkpoints").glob("step-*"))[-1] / "weights.safetensors")
    return {name: value.clone() for name, value in loaded.items()}  # not mapped to a file that a test goes on to harm


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _resumed(config: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {**config, "train": {**config["train"], "resume": True}, **sections}


# --- kills -----------------------------------------------------------------------------------------------------------


def _kill(configured: Configured, tmp_path: Path, *moments: str) -> str:
    config = configured(
        tmp_path,
        train={"keep_last": 2},
        eval={"hold_out": 4, "every": 3},
        callbacks={"halve-at": {"step": 3}, "best-checkpoints": {}},
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = (str(tmp_path / "config.json"), str(tmp_path), *moments)
    return run_processes(HERE / "killed_runs.py", *arguments, world=1, timeout=500)[0].stdout


def test_a_killed_run_goes_on_bit_by_bit(configured: Configured, tmp_path: Path) -> None:
    """Killed at its first write, before a checkpoint gets its name (the third and fourth rename are config and log), and late."""
    told = _kill(configured, tmp_path, "1", "rename:4", "rename:5", "random:1:0")
    assert "had []" in told


@pytest.mark.slow
def test_a_run_killed_at_20_moments_goes_on_bit_by_bit(configured: Configured, tmp_path: Path) -> None:
    assert len(_kill(configured, tmp_path, "random:20:7").splitlines()) == 20


# --- signals and callbacks -------------------------------------------------------------------------------------------


def test_sigterm_ends_the_run_after_a_whole_step_and_resume_makes_up_for_it(
    configured: Configured, tmp_path: Path
) -> None:
    whole = tk.train(configured(tmp_path / "whole", callbacks={"signal-at": {"step": 99}}))
    assert not whole.stopped
    config = configured(tmp_path / "run", callbacks={"signal-at": {"step": 2}})  # seen when step 3 is done
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


def test_two_processes_agree_on_a_signal_that_one_of_them_got(configured: Configured, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import json, sys, tk\nprint(tk.train(json.load(open(sys.argv[1]))))\n")
    config = configured(tmp_path / "run", callbacks={"signal-at": {"step": 2, "rank": "1"}})
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run_processes(script, str(tmp_path / "config.json"), world=2)
    assert all("steps=3" in p.stdout and "stopped='SIGTERM'" in p.stdout for p in done)


def test_processes_with_different_configs_are_refused(configured: Configured, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys, tk\n"
        "config = json.load(open(sys.argv[1]))\n"
        "config['train']['seed'] = int(os.environ['RANK'])\n"
        "tk.train(config)\n"
    )
    (tmp_path / "config.json").write_text(json.dumps(configured(tmp_path / "run")))
    done = run_processes(script, str(tmp_path / "config.json"), world=2, expect=1)
    assert all("different config: rank 1" in p.stderr for p in done)
    assert not (tmp_path / "run").exists()


def test_a_callback_ends_the_run_as_if_it_had_come_to_its_end(configured: Configured, tmp_path: Path) -> None:
    config = configured(tmp_path / "run", callbacks={"stop-at": {"step": 3}}, eval={"hold_out": 4})
    result = tk.train(config)
    assert (result.stopped, result.steps) == ("enough", 3)
    assert (tmp_path / "run/final/adapter_model.safetensors").is_file()
    assert result.evals != result.first
    assert tk.train(_resumed(config)).steps == 3


def test_callbacks_scale_the_rate_and_keep_checkpoints_over_a_resume(configured: Configured, tmp_path: Path) -> None:
    config = configured(
        tmp_path / "run", train={"keep_last": 1}, callbacks={"halve-at": {}}, scheduler={"name": "constant"}
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
def test_a_broken_newest_checkpoint_is_told_and_the_one_before_used(
    configured: Configured, tmp_path: Path, harm: str
) -> None:
    config = configured(tmp_path / "run")
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


def test_resuming_with_another_config_names_what_differs(configured: Configured, tmp_path: Path) -> None:
    config = configured(tmp_path / "run")
    tk.train(config)
    with pytest.raises(UsageError, match=r"optim\.lr \(was 0\.01, is 0\.02\)"):
        tk.train(_resumed(config, optim={"name": "adamw", "lr": 2e-2}))
    tk.train(_resumed(config, report={"html": True, "plot": False}))


ENGINE = """
from dataclasses import dataclass
from tk import EngineSpec, hookimpl

@dataclass(frozen=True)
class Options:
    url: str = ""
    model: str = ""

@hookimpl
def tk_engines():
    yield EngineSpec(name="asked", target=object, config=Options, summary="A server.", elsewhere=("url",))
"""


@pytest.mark.parametrize("section", ["engine", "engines"])
def test_a_run_goes_on_where_an_engine_has_another_address(
    configured: Configured, tmp_path: Path, section: str
) -> None:
    def engine(**options: str) -> dict[str, Any]:
        one = {"name": "asked", "url": "http://here:1", "model": "a", **options}
        return {section: one if section == "engine" else {"judge": one}}

    (tmp_path / "engine.py").write_text(ENGINE)
    plugins = {"files": [str(tmp_path / "engine.py")]}
    config = configured(tmp_path / "run", train={"steps": 2}, plugins=plugins, **engine())
    tk.train(config)
    assert tk.train(_resumed(config, **engine(url="http://there:2"))).steps == 2
    with pytest.raises(UsageError, match=r"engine.*\.model \(was 'a', is 'b'\)"):
        tk.train(_resumed(config, **engine(model="b")))


def test_resume_without_a_checkpoint_begins_anew(configured: Configured, tmp_path: Path) -> None:
    config = configured(tmp_path / "run")
    first = tk.train(_resumed(config))
    second = tk.train(configured(tmp_path / "other"))
    assert first.steps == 6
    assert _same(_weights(first.output), _weights(second.output))


@pytest.mark.parametrize("left", ["final", "a broken checkpoint"])
def test_resume_deletes_nothing_that_was_trained(configured: Configured, tmp_path: Path, left: str) -> None:
    config = configured(tmp_path / "run", train={"steps": 2})
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


def test_a_run_that_went_on_keeps_no_later_checkpoint(configured: Configured, tmp_path: Path) -> None:
    config = configured(tmp_path / "run")
    tk.train({**config, "callbacks": {"signal-at": {"step": 3}}})
    (tmp_path / "run/checkpoints/step-00000009").mkdir()
    with pytest.warns(TkWarning, match="step-00000009"):
        tk.train(_resumed({**config, "callbacks": {"signal-at": {"step": 3}}}))
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-00000004", "step-00000006"]


def test_a_run_goes_on_where_its_folder_is_now(configured: Configured, tmp_path: Path) -> None:
    tk.train(configured(tmp_path / "before", callbacks={"signal-at": {"step": 1}}))
    (tmp_path / "before").rename(tmp_path / "after")
    result = tk.train(run=tmp_path / "after", train={"resume": True})
    assert (result.output, result.steps) == (tmp_path / "after", 6)
    assert not (tmp_path / "before").exists()
    assert json.loads((tmp_path / "after/run.json").read_text())["resumed_from"] == 2


def test_what_a_callback_refuses_ends_the_run_and_keeps_what_it_has_learnt(
    configured: Configured, tmp_path: Path
) -> None:
    """Without a first evaluation the figures are not known before the end."""
    config = configured(tmp_path / "run", train={"save_every": None}, eval={"hold_out": 4, "at_start": False})
    with pytest.raises(UsageError, match="has no figure 'acc'"):
        tk.train({**config, "callbacks": {"best-checkpoints": {"metric": "acc"}}})
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000006"]


def test_resume_on_other_rows_is_refused(configured: Configured, inputs: Path, tmp_path: Path) -> None:
    rows = (inputs / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    config = configured(tmp_path / "run", data=str(tmp_path / "rows.jsonl"))
    tk.train(config)
    (tmp_path / "rows.jsonl").write_text("\n".join(reversed(rows)) + "\n")
    with pytest.raises(TkError, match="was trained on other rows than the data holds now"):
        tk.train(_resumed(config))


def test_checkpoints_of_weights_only_are_smaller_and_not_resumed(configured: Configured, tmp_path: Path) -> None:
    config = configured(tmp_path / "run", train={"weights_only": True})
    tk.train(config)
    assert not list((tmp_path / "run").rglob("optimizer.safetensors"))
    with pytest.raises(UsageError, match="weights only"):
        tk.train(_resumed(config))


@pytest.mark.parametrize("where", ["", "final", "checkpoints/step-00000006"])
def test_a_run_starts_from_the_weights_of_another(configured: Configured, tmp_path: Path, where: str) -> None:
    first = tk.train(configured(tmp_path / "first", eval={"hold_out": 4}))
    start = {"start_from": str(tmp_path / "first" / where), "steps": 1}
    second = tk.train(configured(tmp_path / "second", eval={"hold_out": 4}, train=start))
    assert second.first["loss"] == pytest.approx(first.evals["loss"], rel=1e-6)


def test_starting_from_what_is_no_run_is_a_usage_error(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.start_from"):
        tk.train(configured(tmp_path / "run", train={"start_from": str(tmp_path / "nothing")}))
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_one_error_and_leaves_the_older_checkpoint(configured: Configured, tmp_path: Path) -> None:
    config = configured(tmp_path / "run", train={"steps": 2})
    tk.train(config)
    config = configured(tmp_path / "run2", tuner={"name": "full"}, train={"steps": 2})
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


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_resume_bit_by_bit_and_one_goes_on_from_two(
    configured: Configured, tmp_path: Path, strategy: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text("import json, sys, tk\nfor config in json.load(open(sys.argv[1])):\n    tk.train(config)\n")
    small = {"strategy": strategy, "eval": {"hold_out": 5}}
    whole = configured(tmp_path / "whole", callbacks={"signal-at": {"step": 99}}, **small)
    part = configured(tmp_path / "part", callbacks={"signal-at": {"step": 3}}, **small)
    (tmp_path / "two.json").write_text(json.dumps([whole, part, _resumed(part)]))
    run_processes(script, str(tmp_path / "two.json"), world=2, timeout=300)
    assert _same(_weights(tmp_path / "part"), _weights(tmp_path / "whole"))

    small |= {"model": str(tiny_checkpoint(tmp_path / "model", "llama", vocab=300)), "tuner": "full"}  # no dropout
    again = configured(tmp_path / "again", callbacks={"signal-at": {"step": 3}}, **small)
    (tmp_path / "stop.json").write_text(json.dumps([again]))
    run_processes(script, str(tmp_path / "stop.json"), world=2, timeout=300)
    result = tk.train(_resumed(again))
    assert result.steps == 6
    assert not torch.distributed.is_initialized()
    tk.train(configured(tmp_path / "one", **small))
    whole, went_on = _weights(tmp_path / "one"), _weights(tmp_path / "again")
    assert whole.keys() == went_on.keys()
    assert max(float((went_on[name] - value).norm() / value.norm()) for name, value in whole.items()) < 1e-5
