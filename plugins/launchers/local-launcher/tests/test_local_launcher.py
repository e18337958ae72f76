"""Processes on this machine: a run of two is the run of one; signals, failures and kills end all of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tk
from tk.errors import TkError, UsageError
from tk_conformance.tiny import tiny_checkpoint
from tk_local_launcher.launcher import LocalLauncher
from tk_local_launcher.options import LocalOptions
from tk_parallel.testing import run_processes

SAYS = "import os, sys; print(os.environ['RANK'], os.environ['WORLD_SIZE'], os.environ['OMP_NUM_THREADS'])"


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a start."""
    return tmp_path_factory.mktemp("own")


def test_processes_know_their_places_and_the_first_prints(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    text = f"{SAYS}; open(os.path.join({str(tmp_path)!r}, os.environ['RANK']), 'w').write(os.environ['MASTER_PORT'])"
    assert LocalLauncher(LocalOptions(processes=3)).launch(script(text), tmp_path, own) == ""
    threads = max(1, (os.cpu_count() or 1) // 3)
    assert capfd.readouterr().out == f"0 3 {threads}\n"
    (port,) = {int((tmp_path / str(rank)).read_text()) for rank in range(3)}
    outgoing = Path("/proc/sys/net/ipv4/ip_local_port_range")
    assert port < (int(outgoing.read_text().split()[0]) if outgoing.exists() else 32_768)
    assert LocalLauncher(LocalOptions()).here


def test_a_process_that_fails_is_named_with_what_it_said(tmp_path: Path, own: Path) -> None:
    text = "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit('the reason')\ntime.sleep(100)"
    launcher, begun = LocalLauncher(LocalOptions(processes=3, grace=0.2)), time.monotonic()
    with pytest.raises(TkError, match=r"Process 1 of 3 failed \(exit code 1\)\n  the reason$"):
        launcher.launch(script(text), tmp_path, own)
    assert time.monotonic() - begun < 20


def test_all_that_failed_are_told_with_what_they_said(tmp_path: Path, own: Path) -> None:
    """The one that is seen first may have failed because of another; what does not fit is kept with the run."""
    text = (
        "import os, sys, time\nrank = int(os.environ['RANK'])\ntime.sleep(rank % 3 * 0.5)\n"
        "print(*range(20 * (rank == 2)), sep='\\n')\nsys.exit(f'the reason of {rank}')"
    )
    with pytest.raises(TkError) as raised:
        LocalLauncher(LocalOptions(processes=4)).launch(script(text), tmp_path, own)
    told = str(raised.value)
    assert told.startswith("Process 0 of 4 failed (exit code 1), as told above.\n")
    assert "Process 1 of 4 failed (exit code 1)\n  \n  the reason of 1\n" in told
    assert "Process 3 of 4 failed (exit code 1)\n  \n  the reason of 3" in told
    kept = tmp_path / "launch/rank-2.log"
    assert f"Process 2 of 4 failed (exit code 1) ({kept})\n  9\n" in told
    assert kept.read_text().splitlines() == [*map(str, range(20)), "the reason of 2"]
    assert [path.name for path in kept.parent.iterdir()] == ["rank-2.log"]


def test_what_all_processes_call_the_users_mistake_is_one(tmp_path: Path, own: Path) -> None:
    """The exit code of a wrong config is the same on any number of processes."""
    launcher = LocalLauncher(LocalOptions(processes=2, grace=0.2))
    with pytest.raises(UsageError, match="Process 0 of 2 failed"):
        launcher.launch(script("import sys; sys.exit(2)"), tmp_path, own)
    with pytest.raises(TkError) as raised:
        launcher.launch(script("import os, sys; sys.exit(2 - int(os.environ['RANK']))"), tmp_path, own)
    assert raised.value.exit_code == 1


def test_a_process_that_is_killed_is_named_and_the_others_end(tmp_path: Path, own: Path) -> None:
    """They do not hear of SIGTERM either."""
    text = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open(os.path.join({str(tmp_path)!r}, os.environ['RANK']), 'w').write(str(os.getpid()))\n"
        "if os.environ['RANK'] == '2': os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(100)"
    )
    with pytest.raises(TkError, match="Process 2 of 3 was ended by the signal SIGKILL"):
        LocalLauncher(LocalOptions(processes=3, grace=0.2)).launch(script(text), tmp_path, own)
    written = [int(path.read_text()) for path in tmp_path.iterdir()]
    assert not any(alive(pid) for pid in written)


def test_none_outlives_a_launcher_that_is_killed(tmp_path: Path, own: Path) -> None:
    text = f"import os, time; open(os.path.join({str(tmp_path)!r}, os.environ['RANK']), 'w').write(str(os.getpid())); time.sleep(100)"
    launching = (
        "import sys\nfrom pathlib import Path\nfrom tk_local_launcher.launcher import LocalLauncher\n"
        "from tk_local_launcher.options import LocalOptions\n"
        f"LocalLauncher(LocalOptions(processes=2)).launch([sys.executable, '-c', {text!r}], Path('.'), Path({str(own)!r}))"
    )
    with subprocess.Popen(script(launching)) as launcher:
        until(lambda: len([p for p in tmp_path.iterdir() if p.read_text()]) == 2)
        launcher.kill()
    pids = [int(path.read_text()) for path in tmp_path.iterdir()]
    end = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    assert not [pid for pid in pids if alive(pid)]


# --- whole runs ---


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "model", "llama", vocab=300)
    rows = [{"prompt": f"{i}?", "completion": f"It is {i * i}."} for i in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _config(inputs: Path, output: Path, **sections: Any) -> dict[str, Any]:
    return {
        "model": str(inputs / "model"),
        "data": str(inputs / "rows.jsonl"),
        "optim": {"name": "sgd", "lr": 1e-2},
        "train": {"steps": 4, "batch_size": 4, "micro_batch_size": 2},
        "report": {"html": False, "plot": False},
        "output": str(output),
        **sections,
    }


TALKING = """
import os
from tk import component
from tk.callbacks import Base

@component("callbacks", "talking")
class Talking(Base):
    def on_step(self, control, metrics):
        print("{", os.environ["RANK"], control.step, flush=True)
"""


def test_a_run_of_two_processes_is_that_of_one(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "talking.py").write_text(TALKING)
    talking = {"plugins": {"files": [str(tmp_path / "talking.py")]}, "callbacks": {"talking": {}}}
    alone = tk.train(_config(inputs, tmp_path / "alone"))
    both = tk.train(_config(inputs, tmp_path / "both", launcher={"processes": 2}, **talking))
    assert capfd.readouterr().out == "".join(
        f"{{ 0 {step}\n" for step in (1, 2, 3, 4)
    )  # what is printed is not the result
    assert (both.output, both.steps, type(both)) == (tmp_path / "both", 4, type(alone))
    assert both.metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-5)
    weights = [load_file(tmp_path / name / "final/adapter_model.safetensors") for name in ("alone", "both")]
    for name, value in weights[0].items():
        assert (value - weights[1][name]).norm() <= 1e-5 * value.norm() + 1e-12
    run = json.loads((tmp_path / "both/run.json").read_text())
    assert run["plan"]["world"] == 2


def test_of_processes_that_were_started_together_one_prints_the_result(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(_config(inputs, tmp_path / "run")))
    (tmp_path / "tk.py").write_text("import runpy, sys\nsys.path.pop(0)\nrunpy.run_module('tk', run_name='__main__')\n")
    train = ("train", "-c", str(tmp_path / "config.json"), "--json")
    first, second = run_processes(tmp_path / "tk.py", *train, world=2)
    assert json.loads(first.stdout)["steps"] == 4
    assert second.stdout == ""


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_run_which_goes_on(inputs: Path, tmp_path: Path) -> None:
    train = {"steps": 150, "batch_size": 4, "micro_batch_size": 2, "save_every": 2}
    config = _config(inputs, tmp_path / "run", train=train)
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "tk", "train", "-c", str(tmp_path / "config.json"), "--launcher.processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        until(lambda: bool(list((tmp_path / "run").glob("checkpoints/step-*"))), 120)
        ranks = subprocess.run(["pgrep", "-P", str(running.pid)], capture_output=True, text=True).stdout.split()
        assert len(ranks) == 2
        begun = time.monotonic()
        os.kill(int(ranks[1]), signal.SIGKILL)
        errors = running.communicate(timeout=60)[1]
        assert time.monotonic() - begun < 30
    assert running.returncode == 1
    assert "Process 1 of 2 was ended by the signal SIGKILL" in errors
    assert re.search(r"tk train --run \S+/run --resume", errors)
    assert not any(alive(int(pid)) for pid in ranks)
    result = tk.train(run=tmp_path / "run", train={"resume": True}, launcher={"processes": 2})
    assert result.steps == 150
    tk.train(_config(inputs, tmp_path / "whole", train=train, launcher={"processes": 2}))
    went_on, whole = (load_file(tmp_path / name / "final/adapter_model.safetensors") for name in ("run", "whole"))
    assert went_on.keys() == whole.keys()
    assert all(torch.equal(went_on[name], value) for name, value in whole.items())


def test_a_signal_saves_and_ends_the_run(inputs: Path, tmp_path: Path) -> None:
    config = _config(inputs, tmp_path / "run", train={"steps": 4000, "batch_size": 4, "save_every": 2})
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "tk", "train", "-c", str(tmp_path / "config.json"), "--launcher.processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        until(lambda: bool(list((tmp_path / "run").glob("checkpoints/step-*"))), 120)
        running.send_signal(signal.SIGTERM)
        printed = running.communicate(timeout=60)[0]
    assert (running.returncode, "stopped by SIGTERM" in printed) == (0, True)
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "stopped"
