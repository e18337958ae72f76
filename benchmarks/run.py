"""Runs every benchmark and writes the figures, with the machine, to benchmarks/RESULTS.md.

python benchmarks/run.py [--quick] [--output FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import dpo
import first_step
import grpo
import pictures
import startup
import throughput
from common import HERE, Section, load, machine, machine_lines, verdict

BENCHMARKS: Sequence[tuple[str, Callable[[bool], list[Section]]]] = (
    ("startup.py", lambda quick: [startup.run(quick)]),
    ("first_step.py", lambda quick: [first_step.run(quick)]),
    ("throughput.py", lambda quick: throughput.run(quick)),
    ("dpo.py", lambda quick: [dpo.run(quick)]),
    ("grpo.py", lambda quick: [grpo.run(quick)]),
    ("pictures.py", lambda quick: [pictures.run(quick)]),
)

ABOUT = """\
Written by `make bench` (`python benchmarks/run.py`). Figures are ratios of programs that ran in turns in one sitting: the
seconds are those of one machine, and of what else ran on it; the ratios travel better. The spread of single rounds stands
beside each. Where a limit is not met, it says so."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that everything runs; only printed")
    parser.add_argument("--output", type=Path, help="file to write (default: benchmarks/RESULTS.md, none with --quick)")
    given = parser.parse_args()
    begun, before = time.monotonic(), load()
    parts, summary = [], []
    for script, measure in BENCHMARKS:
        print(f"{script} …", file=sys.stderr, flush=True)
        for section in measure(given.quick):
            command = f"`python benchmarks/{script}{' --quick' if given.quick else ''}`"
            parts.append(section.text().replace("\n\n", f"\n\n{command}\n\n", 1))
            summary.append(f"* {section.title}: {'—' if section.met is None else verdict(section.met)}")
            print(section.text(), file=sys.stderr, flush=True)
    found = machine() | {
        "load (1 minute) before and after": f"{before}, {load()}",
        "duration": f"{(time.monotonic() - begun) / 60:.0f} minutes{', quick' if given.quick else ''}",
    }
    head = ["# Benchmarks", "", ABOUT, "", *machine_lines(found), "", *summary, ""]
    text = "\n".join([*head, *parts])
    target = given.output or (None if given.quick else HERE / "RESULTS.md")
    if target is None:
        print(text)
    else:
        target.write_text(text, encoding="utf-8")
        print(f"{target} written", file=sys.stderr)
    return 0 if all("not met" not in line for line in summary) else 1


if __name__ == "__main__":
    sys.exit(main())
