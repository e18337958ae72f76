"""Runs benchmarks and writes their figures, with the machine, to benchmarks/RESULTS.md.

python benchmarks/run.py [NAME …] [--quick] [--output FILE]
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import dpo
import first_step
import generation
import grpo
import learning
import memory
import pictures
import serving
import shared_prompt
import startup
import throughput
from common import HERE, Section, load, machine, verdict

BENCHMARKS: dict[str, Callable[[bool], list[Section]]] = {
    "startup": lambda quick: [startup.run(quick)],
    "first_step": lambda quick: [first_step.run(quick)],
    "throughput": lambda quick: throughput.run(quick),
    "dpo": lambda quick: [dpo.run(quick)],
    "grpo": lambda quick: [grpo.run(quick)],
    "generation": lambda quick: [generation.run(quick)],
    "memory": lambda quick: [memory.run(quick)],
    "serving": lambda quick: [serving.run(quick)],
    "learning": lambda quick: [learning.run(quick)],
    "shared_prompt": lambda quick: [shared_prompt.run(quick)],
    "pictures": lambda quick: [pictures.run(quick)],
}

HEAD = """\
# Benchmarks

Written by `make bench` (`python benchmarks/run.py`; with names, it measures those again and leaves the others). Figures are
ratios of programs that ran in turns in one sitting: the seconds are those of one machine, and of what else ran on it; the
ratios travel better. The spread of single rounds stands beside each. Where a limit is not met, it says so."""

SAID = re.compile(r"^\*Limits: (.+)\.\* ", re.MULTILINE)
"""What each section begins with."""


def written(script: str, section: Section, minutes: float, loads: str, quick: bool) -> str:
    """A section with what it takes to judge it: the command, the machine, the day, and whether its limits were met."""
    found = machine()
    met = "none" if section.met is None else verdict(section.met)
    about = (
        f"*Limits: {met}.* `python benchmarks/{script}.py{' --quick' if quick else ''}`, {found['date']}, {minutes:.0f} "
        f"minutes, load before and after {loads}. {where(found)}"
    )
    return section.text().replace("\n\n", f"\n\n{about}\n\n", 1)


def where(found: Mapping[str, str]) -> str:
    """The machine in a line."""
    named = ("cores", "memory", "Python")
    return "; ".join([found["CPU"], *(f"{name} {found[name]}" for name in named), found["packages"]]) + "."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that everything runs; only printed")
    parser.add_argument("--output", type=Path, help="file to write (default: benchmarks/RESULTS.md, none with --quick)")
    given = parser.parse_args()
    for name in given.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}: {', '.join(BENCHMARKS)}")
    target = given.output or (None if given.quick else HERE / "RESULTS.md")
    sections = dict(kept(target.read_text(encoding="utf-8"))) if target and target.exists() else {}
    missed = False
    for script in given.names or BENCHMARKS:
        print(f"{script} …", file=sys.stderr, flush=True)
        begun, before = time.monotonic(), load()
        for section in BENCHMARKS[script](given.quick):
            minutes = (time.monotonic() - begun) / 60
            sections[section.title] = text = written(script, section, minutes, f"{before}, {load()}", given.quick)
            missed = missed or "not met" in text
            print(text, file=sys.stderr, flush=True)
        if target is not None:
            target.write_text(page(sections), encoding="utf-8")
    if target is None:
        print(page(sections))
    return int(missed)


def kept(text: str) -> list[tuple[str, str]]:
    """Title and text of each section of a page."""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return [(part.partition("\n")[0], f"## {part.rstrip()}\n") for part in parts]


def page(sections: dict[str, str]) -> str:
    said = {title: SAID.search(text) for title, text in sections.items()}
    summary = [f"* {title}: {found[1] if found else '—'}" for title, found in said.items()]
    return "\n".join([HEAD, "", *summary, "", *sections.values()])


if __name__ == "__main__":
    sys.exit(main())
