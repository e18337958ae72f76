"""Kills a run at given moments, goes on with it, and compares the outcome with that of an uninterrupted run.

Arguments: a config (JSON file), a folder, and moments: a number counts the files opened for writing, folders made,
renamed and deleted in the run's folder; "rename:N" is the N-th rename; "random:K:SEED" are K moments drawn from all.
Each run is a process of its own, forked from this one, which has imported everything.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import peft  # noqa: F401
import transformers  # noqa: F401

import tk
from tk_torch import trainer  # noqa: F401

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree")


def fork(config: dict[str, Any], kill_at: int, renames_only: bool, count_to: Path | None = None) -> int:
    """Train in a child that dies at the moment (0: never); its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    folder, seen = config["output"], 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in (EVENTS[1:2] if renames_only else EVENTS) or folder not in str(arguments[0]):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
            return
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    status = 1
    try:
        tk.train(config)
        if count_to:
            count_to.write_text(str(seen))
        status = 0
    except BaseException:  # noqa: BLE001 - the child must end here whatever it was
        traceback.print_exc()
    os._exit(status)


def moments(words: list[str], total: int) -> list[tuple[int, bool]]:
    found = []
    for word in words:
        if word.startswith("random:"):
            _, count, seed = word.split(":")
            found += [(m, False) for m in random.Random(int(seed)).sample(range(1, total + 1), int(count))]
        else:
            found.append((int(word.removeprefix("rename:")), word.startswith("rename:")))
    return found


def outcome(folder: Path) -> dict[str, bytes]:
    """Bytes of what was trained, and the lines of the log without its clocks."""
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    files = [*(folder / "final").iterdir(), last / "weights.safetensors", last / "optimizer.safetensors"]
    found = {path.name: path.read_bytes() for path in files}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    plain = [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]
    return found | {"log": json.dumps(plain).encode()}


config, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
whole = {**config, "output": str(folder / "whole")}
assert fork(whole, 0, False, folder / "count") == 0
expected = outcome(folder / "whole")
total = int((folder / "count").read_text())
for number, (moment, renames_only) in enumerate(moments(sys.argv[3:], total)):
    own = {**config, "output": str(folder / f"killed-{number}")}
    assert os.WTERMSIG(fork(own, moment, renames_only)) == signal.SIGKILL, f"moment {moment} never came"
    steps = [p.name for p in (folder / f"killed-{number}/checkpoints").glob("step-*")]
    assert fork({**own, "train": {**own["train"], "resume": True}}, 0, False) == 0
    found = outcome(folder / f"killed-{number}")
    different = [name for name in expected if found.get(name) != expected[name]]
    assert set(found) == set(expected)
    assert not different, f"killed at {moment} of {total} with {steps}: {different} differ"
    leftovers = list((folder / f"killed-{number}").rglob("*.tmp"))
    assert not leftovers
    print(f"killed at {moment} of {total}, had {sorted(steps)}")
