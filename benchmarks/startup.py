"""CPU time of help and lists, with 40 more plugins installed, against the bare imports that a command line needs.

python benchmarks/startup.py [--quick]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from common import TK, Pairs, Section, environment, load, table, verdict

PLUGINS = 40
BASE = (sys.executable, "-c", "import typer, pluggy, msgspec")
BUDGETS: Mapping[tuple[str, ...], float] = {
    ("--help",): 3.0,
    ("plugins", "list"): 4.0,
    ("train", "--help"): 4.0,
}

MODULE = '''"""A loss that changes nothing."""

from dataclasses import dataclass
from typing import Annotated

from tk import LossSpec, doc, hookimpl


@dataclass(frozen=True)
class Options:
    """Options."""

    factor: Annotated[float, doc("A number.", gt=0)] = 1.0


@hookimpl
def tk_losses():
    yield LossSpec(name="dummy-{number}", target="{module}:Loss", config="{module}:Options", summary="Changes nothing.")
'''


def install(folder: Path, count: int = PLUGINS) -> None:
    """Distributions with a module and an entry point each, as an installer leaves them."""
    for number in range(count):
        module = f"dummy_tk_plugin_{number}"
        (folder / f"{module}.py").write_text(MODULE.replace("{number}", str(number)).replace("{module}", module))
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dummy-tk-plugin-{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[tk]\ndummy-{number} = {module}\n")
        (info / "RECORD").write_text(f"{module}.py,,\n")


def cpu_seconds(command: Sequence[str], env: Mapping[str, str]) -> float:
    """User and system time of a program and of all that it starts."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{said.decode()}")
    return usage.ru_utime + usage.ru_stime


def check_found(env: Mapping[str, str]) -> None:
    """The generated plugins are really loaded."""
    listed = subprocess.run((TK, "losses", "list"), env=env, capture_output=True, text=True, check=True).stdout
    if listed.count("dummy-") < PLUGINS:
        raise SystemExit(f"tk losses list shows {listed.count('dummy-')} of {PLUGINS} generated plugins:\n{listed}")


def run(quick: bool = False) -> Section:
    rounds = 9 if quick else 21
    commands = [BASE, *((TK, *words) for words in BUDGETS)]
    before = load()
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        env = environment(PYTHONPATH=folder)
        check_found(env)
        for command in commands:  # compiles what is not compiled yet
            cpu_seconds(command, env)
        spent: dict[Sequence[str], list[float]] = {command: [] for command in commands}
        for number in range(rounds):
            for command in commands[:: 1 if number % 2 else -1]:
                spent[command].append(cpu_seconds(command, env))
    rows, all_met = [], True
    for words, budget in BUDGETS.items():
        pairs = Pairs(spent[TK, *words], spent[BASE])
        met = pairs.of_medians <= budget
        all_met &= met
        took = f"{1000 * median(pairs.ours):.0f}"
        rows.append((f"`tk {' '.join(words)}`", took, f"{pairs.of_medians:.2f}", pairs.spread(), budget, verdict(met)))
    base = 1000 * median(spent[BASE])
    lines = [
        f"CPU time (user and system) with {PLUGINS} generated plugins besides the installed ones; {rounds} rounds in "
        f'turns, medians. `python -c "{BASE[-1]}"` = 1.00: {base:.0f} ms. Load before: {before}.',
        "",
        *table(("command", "ms", "ratio of medians", "ratios: least / median / greatest", "limit", ""), rows),
    ]
    return Section("Start-up", lines, all_met)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    print(run(parser.parse_args().quick).text())
