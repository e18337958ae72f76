"""Kills a run at given moments, goes on with it, and compares the outcome with that of an uninterrupted run.

Arguments: a config (JSON file), a folder, and moments: a number counts the files opened for writing, folders made,
renamed and deleted in the run's folder; "rename:N" is the N-th rename; "random:K:SEED" are K moments drawn from all;
"module:function:K:SEED" are K of the calls of a function or method, drawn from all of its calls.
Each run is a process of its own, forked from this one, which has imported everything.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import random
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import peft  # noqa: F401
import transformers  # noqa: F401

import tk
from tk_torch import trainer  # noqa: F401

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree")


Moment = tuple[str, int]
"""What is counted ("write", "rename" or a function), and at which of them the run dies."""


def fork(config: dict[str, Any], watched: set[str], moment: Moment = ("", 0), count_to: Path | None = None) -> int:
    """Train in a child that dies at the moment; its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    folder, seen = config["output"], Counter[str]()

    def see(what: str) -> None:
        seen[what] += 1
        if (what, seen[what]) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or folder not in str(arguments[0]):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
            return
        see("write")
        if event == "os.rename":
            see("rename")

    sys.addaudithook(hook)
    for name in watched:
        watch(name, see)
    status = 1
    try:
        tk.train(config)
        if count_to:
            count_to.write_text(json.dumps(seen))
        status = 0
    except BaseException:  # noqa: BLE001 - the child must end here whatever it was
        traceback.print_exc()
    os._exit(status)


def watch(name: str, see: Any) -> None:
    """Tell of every call of "module:function" before it is made."""
    module, _, path = name.partition(":")
    *parents, last = path.split(".")
    owner = functools.reduce(getattr, parents, importlib.import_module(module))
    function = getattr(owner, last)

    @functools.wraps(function)
    def told(*args: Any, **kwargs: Any) -> Any:
        see(name)
        return function(*args, **kwargs)

    setattr(owner, last, told)


def moments(words: list[str], totals: dict[str, int]) -> list[Moment]:
    found: list[Moment] = []
    for word in words:
        if word.isdigit():
            found.append(("write", int(word)))
        elif word.startswith("rename:"):
            found.append(("rename", int(word.removeprefix("rename:"))))
        else:
            name, count, seed = word.rsplit(":", 2)
            what = "write" if name == "random" else name
            drawn = random.Random(int(seed)).sample(range(1, totals[what] + 1), min(int(count), totals[what]))
            found += [(what, number) for number in drawn]
    return found


def outcome(folder: Path) -> dict[str, bytes]:
    """Bytes of what was trained, and the lines of the log without its clocks."""
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    files = [*(folder / "final").iterdir(), last / "weights.safetensors", last / "optimizer.safetensors"]
    found = {path.name: path.read_bytes() for path in files}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    clocks = ("tokens_per_second", "seconds/")
    plain = [{k: v for k, v in line.items() if not k.startswith(clocks)} for line in lines]
    samples = folder / "samples.jsonl"  # what was generated, where anything was
    found |= {"samples": samples.read_bytes()} if samples.is_file() else {}
    return found | {"log": json.dumps(plain).encode()}


config, folder, words = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3:]
functions = {word.rsplit(":", 2)[0] for word in words if word.count(":") == 3}
whole = {**config, "output": str(folder / "whole")}
assert fork(whole, functions, count_to=folder / "count") == 0
expected = outcome(folder / "whole")
totals = json.loads((folder / "count").read_text())
for number, moment in enumerate(moments(words, totals)):
    own = {**config, "output": str(folder / f"killed-{number}")}
    assert os.WTERMSIG(fork(own, functions, moment)) == signal.SIGKILL, f"moment {moment} never came"
    steps = [p.name for p in (folder / f"killed-{number}/checkpoints").glob("step-*")]
    assert fork({**own, "train": {**own["train"], "resume": True}}, functions) == 0
    found = outcome(folder / f"killed-{number}")
    different = [name for name in expected if found.get(name) != expected[name]]
    assert set(found) == set(expected)
    assert not different, f"killed at {moment} of {totals} with {steps}: {different} differ"
    leftovers = list((folder / f"killed-{number}").rglob("*.tmp"))
    assert not leftovers
    print(f"killed at {moment[1]} of {totals[moment[0]]} {moment[0]}, had {sorted(steps)}")
