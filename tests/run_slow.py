"""Runs the slow tests in a listed order while time allows, and says what was left out.

SLOW_SECONDS: the time there is (none: all of them). Exit code 1 where a test failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

ORDER = (
    "plugins/trainers/torch",
    "tests",
    "core/tests",
    "plugins",
)
"""What matters most first; a test that several of these hold is run once."""

MARGIN = 90.0
"""Seconds that must be left to begin another file."""


def slow_files() -> list[str]:
    """Files with slow tests, in order."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow", *ORDER], capture_output=True, text=True
    )
    lines = [line.partition(":")[0] for line in listed.stdout.splitlines()]  # "path: count" or "path::test"
    names = dict.fromkeys(line for line in lines if line.endswith(".py"))
    return sorted(names, key=lambda name: next(i for i, start in enumerate(ORDER) if name.startswith(f"{start}/")))


def main() -> int:
    end = time.monotonic() + float(os.environ.get("SLOW_SECONDS", "inf"))
    left_out, failed = [], []
    for name in slow_files():
        left = end - time.monotonic()
        if left < MARGIN:
            left_out.append(name)
            continue
        command = [sys.executable, "-m", "pytest", "-m", "slow", name]
        try:
            done = subprocess.run(command, timeout=None if left == float("inf") else left)
        except subprocess.TimeoutExpired:
            left_out.append(f"{name} (stopped: no time left)")
            continue
        if done.returncode not in (0, 5):  # 5: nothing was collected
            failed.append(name)
    for name in left_out:
        print(f"left out: {name}")
    for name in failed:
        print(f"failed: {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
