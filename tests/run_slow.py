"""Runs the slow tests in a listed order, two files at once, while time allows, and says what was left out.

SLOW_SECONDS: the time there is (none: all of them). Exit code 1 where a test failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

ORDER = (
    "plugins/trainers/torch",
    "plugins/strategies",
    "plugins/launchers",
    "plugins/methods",
    "plugins/servers",
    "tests",
    "core/tests",
    "plugins",
)
"""What matters most first; a test that several of these hold is run once."""

LAST = ("tests/test_learning.py", "tests/test_serving_soak.py")
"""What takes most of an hour, after everything else."""
MARGIN = 90.0
"""Seconds that must be left to begin another file."""
AT_ONCE = 2
"""Files that run at the same time."""


def slow_files() -> list[str]:
    """Files with slow tests, in order."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow", *ORDER], capture_output=True, text=True
    )
    lines = [line.partition(":")[0] for line in listed.stdout.splitlines()]  # "path: count" or "path::test"
    names = dict.fromkeys(line for line in lines if line.endswith(".py"))
    places = {name: next(i for i, start in enumerate(ORDER) if name.startswith(f"{start}/")) for name in names}
    return sorted(names, key=lambda name: (name in LAST, places[name]))


def run(name: str, end: float) -> str:
    """A file's slow tests, whose output is printed as they end: "", "left out" or "failed"."""
    left = end - time.monotonic()
    if left < MARGIN:
        return "left out"
    command = [sys.executable, "-m", "pytest", "-m", "slow", "--durations=5", name]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=None if left == float("inf") else left)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # what the tests have started as well
        process.wait()
        return "left out"
    failed = process.returncode not in (0, 5)  # 5: nothing was collected
    print(f"{name}\n{said if failed else said[-400:]}", flush=True)
    return "failed" if failed else ""


def main() -> int:
    end = time.monotonic() + float(os.environ.get("SLOW_SECONDS", "inf"))
    names = slow_files()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(zip(names, pool.map(lambda name: run(name, end), names), strict=True))
    for name, how in found.items():
        if how:
            print(f"{how}: {name}")
    return int("failed" in found.values())


if __name__ == "__main__":
    sys.exit(main())
