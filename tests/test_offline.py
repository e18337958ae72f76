"""Without a network: nothing asks for it on the way from a local folder to an export, and nothing waits for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SITECUSTOMIZE = """
import os, sys

ADDRESSED = ("socket.connect", "socket.sendto", "socket.bind")
LOOKED_UP = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request")

def watch(event, args):
    # an address that is no pair is a file's: such a socket stays on this machine
    if event in LOOKED_UP or (event in ADDRESSED and isinstance(args[1], tuple)):
        with open({log!r}, "a") as file:
            file.write(f"{{event}} {{args!r}}\\n")
        raise OSError("no network in this test")

sys.addaudithook(watch)
"""

WAY = """
import sys
from tk.cli.app import app

model, rows, folder = sys.argv[1:]

def tk(*args):
    app(list(args), standalone_mode=False, prog_name="tk")

tk("train", "--model", model, "--data", rows, "--eval.hold-out", "4", "--eval.generate", "1", "--trackers", "tensorboard",
   "--train.steps", "2", "--tuner.rank", "2", "--output", folder + "/run", "--losses", "causal-lm,dft")
tk("infer", "--run", folder + "/run", "--input", rows, "--rewards", "format,accuracy", "--sampling.max-tokens", "2",
   "--to", folder + "/answers.jsonl")
tk("export", "--run", folder + "/run", "--to", folder + "/merged")
tk("chat", "--model", folder + "/merged", "--prompt", "Hello", "--sampling.max-tokens", "2")
print(sorted({m.partition(".")[0] for m in sys.modules} & {"torch", "transformers", "peft", "huggingface_hub"}))
"""

BLACK_HOLE = """
ip link set lo up && ip route add 10.255.255.0/24 dev lo && exec "$@"
"""
"""Runs a command where what is sent to 10.255.255.x is lost: no answer and no refusal."""


def _environment(**more: str) -> dict[str, str]:
    """As on a user's machine: nothing says that there is no hub."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_")) and "proxy" not in k.lower()
    }
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def _watched(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A log of network calls, and the environment in which every Python process writes them there and fails."""
    log = tmp_path / "network.log"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE.format(log=str(log)))
    return log, _environment(PYTHONPATH=str(tmp_path / "site"), HF_HOME=str(tmp_path / "hf"))


def test_train_answer_export_and_talk_make_no_network_call(inputs, tmp_path):
    log, environment = _watched(tmp_path)
    command = [sys.executable, "-c", WAY, inputs / "model", inputs / "rows.jsonl", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert not log.exists(), log.read_text()
    assert done.stdout.splitlines()[-1] == "['huggingface_hub', 'peft', 'torch', 'transformers']"
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 24


def test_a_network_call_is_noticed(tmp_path):
    log, environment = _watched(tmp_path)
    code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert log.read_text().startswith("urllib.Request ('http://127.0.0.1:9/'")


def test_an_unknown_hub_id_fails_at_once_where_there_is_no_network(inputs, tmp_path):
    log, environment = _watched(tmp_path)
    said, seconds = _asked_for_a_hub_id([], environment, inputs, tmp_path)
    assert "socket.getaddrinfo" in log.read_text()
    assert "no network in this test" in said
    assert seconds < 10


def test_an_unknown_hub_id_does_not_wait_for_a_hub_that_is_silent(inputs, tmp_path):
    lost = ["unshare", "--map-root-user", "--net", "bash", "-c", BLACK_HOLE, "bash"]
    try:
        subprocess.run([*lost, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network of its own can be made here")
    environment = _environment(HF_ENDPOINT="http://10.255.255.1", HF_HOME=str(tmp_path / "hf"))
    said, seconds = _asked_for_a_hub_id(lost, environment, inputs, tmp_path)
    assert "no answer within 3 s" in said
    assert seconds < 10


def _asked_for_a_hub_id(
    before: list[str], environment: dict[str, str], inputs: Path, tmp_path: Path
) -> tuple[str, float]:
    """The error of a run on a hub id, and how long it took once Python had imported what it needs."""
    code = "import transformers, torch, time, sys, tk.cli; start = time.monotonic()\n"
    code += "try: tk.cli.main()\nfinally: print(time.monotonic() - start)"
    args = ("train", "--model", "someone/no-such-model", "--data", str(inputs / "rows.jsonl"))
    command = [*before, sys.executable, "-c", code, *args, "--output", str(tmp_path / "run")]
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - started < 60
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert line.startswith(
        "Error: 'someone/no-such-model' is no folder here and not in the hub's cache, and the hub cannot"
    )
    assert not (tmp_path / "run").exists()
    return line, float(done.stdout)
