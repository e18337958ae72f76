"""What the benchmarks share: a clean environment for the programs they time, ratios with their spread, and the machine."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
WORKERS = HERE / "workers"
BIN = Path(sys.executable).parent
TK = str(BIN / "tk")
MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Section:
    """A part of the results: a title, lines of Markdown, and whether every limit was met (None: there was none)."""

    title: str
    lines: Sequence[str]
    met: bool | None = None

    def text(self) -> str:
        return "\n".join([f"## {self.title}", "", *self.lines, ""])


@dataclass(frozen=True)
class Pairs:
    """Figures of two programs that ran in turns: `ours[i]` and `theirs[i]` of one round."""

    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def of_medians(self) -> float:
        return median(self.ours) / median(self.theirs)

    @property
    def each(self) -> list[float]:
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    def spread(self) -> str:
        """Least, median and greatest ratio of a round."""
        return f"{min(self.each):.3f} / {median(self.each):.3f} / {max(self.each):.3f}"

    def inverse(self) -> Pairs:
        """Of rates where these are times of equal work."""
        return Pairs(self.theirs, self.ours)


def environment(**more: str) -> dict[str, str]:
    """The user's environment, in which Python keeps the bytecode that it compiled."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")}
    return {**kept, **more}


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [list(map(str, head)), ["---"] * len(head), *(list(map(str, row)) for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def verdict(met: bool) -> str:
    return "met" if met else "**not met**"


def load() -> str:
    """Processes that wanted a core, averaged over the last minute: what else ran beside the benchmark."""
    return f"{os.getloadavg()[0]:.1f}"


def machine() -> dict[str, str]:
    """Where the figures were taken."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in info.split("\n\n")[0].splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if name in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ("torch", "transformers", "peft", "trl", "typer", "tk-kernel")
    return {
        "CPU": f"{fields.get('model name', platform.processor())} ({', '.join(vectors)})",
        "cores": f"{len(os.sched_getaffinity(0))}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}",
        "memory": f"{memory:.0f} GiB",
        "system": platform.platform(),
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in packages),
        "date": time.strftime("%Y-%m-%d"),
    }
