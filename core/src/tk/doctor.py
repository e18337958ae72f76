"""What works here and what does not: the machine, the versions, every plugin, and what can be used of it.

This process reads metadata only. Whatever would run a plugin's code or torch is asked in processes of their own
(tk.probe), so that no plugin, however broken, keeps the others from being told about.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tk import __version__
from tk.errors import TkError
from tk.installed import Installed, anew, normal, stale, unreadable
from tk.probe import END

SHOWN = ("engines", "launchers", "strategies", "trackers")
"""Kinds of which every component is asked whether it can be used here; of the others those chosen by default."""

TIME_LIMIT = 120
"""Seconds that one process may take to import what it is asked about."""

GIB = 1024**3


@dataclass(frozen=True)
class Found:
    """A plugin. state: "ok", "broken", "disabled", "duplicate" or "stale metadata"; why, and the command that mends it."""

    distribution: str
    name: str
    version: str
    state: str
    why: str = ""
    mend: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Usable:
    """A component that can be used here, or why it cannot. `default`: it is chosen where nobody names one."""

    kind: str
    name: str
    distribution: str
    default: bool
    why: str = ""

    @property
    def usable(self) -> bool:
        return not self.why


@dataclass(frozen=True)
class Package:
    """A distribution that plugins depend on. version: "" where it is not here. wrong: what it does not meet."""

    name: str
    version: str
    wanted_by: Sequence[str]
    wrong: str = ""


@dataclass(frozen=True)
class Report:
    """All that was found. `broken`: what is chosen by default and cannot be used, in words."""

    machine: Mapping[str, str]
    packages: Sequence[Package]
    plugins: Sequence[Found]
    components: Sequence[Usable]
    broken: Sequence[str] = field(default_factory=tuple)

    @property
    def ok(self) -> bool:
        return not self.broken


def examine() -> Report:
    """Look at everything. Takes as long as importing torch and what the components import."""
    there = Installed()
    with _ask("torch", None) as torch:
        plugins, kinds, components = _discovered()
        wanted = [c for c in components if c["of"] in SHOWN or c["component"] == kinds[c["of"]]["default"]]
        importable = [c for c in wanted if not c["lacks"]]
        reasons = dict(zip(map(id, importable), _imported([c["imports"] for c in importable]), strict=True))
        machine = {**_machine(), **_torch(torch)}
    usable = [
        Usable(c["of"], c["component"], c["distribution"], c["component"] == kinds[c["of"]]["default"], why)
        for c in components
        if (why := c["lacks"] or reasons.get(id(c), "")) or c["of"] in SHOWN
    ]
    found = list(_states(there, plugins))
    return Report(machine, list(_packages(there)), found, usable, list(_broken(kinds, components, usable, found)))


# --- plugins ---


def _discovered() -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
    """Plugins, kinds by name, and components. A plugin that ends the process that loads it is found out and left out."""
    deadly: list[dict[str, Any]] = []
    rows, ended = _asked("discover", {"only": None, "without": []})
    while ended:
        loading = [row["loading"] for row in rows if "loading" in row]
        found = loading[-1:] if loading and loading[-1] else _ending(loading[:-1])
        if not found:
            raise TkError(
                f"looking for plugins {ended}, and it is none of them alone: {', '.join(p[0] for p in loading)}"
            )
        deadly += [_deadly(pair, ended) for pair in found]
        rows, ended = _asked("discover", {"only": None, "without": [[row["plugin"], row["name"]] for row in deadly]})
    return (
        [*(row for row in rows if "plugin" in row), *deadly],
        {row["kind"]: row for row in rows if "kind" in row},
        [row for row in rows if "component" in row],
    )


def _ending(pairs: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Those plugins that end the process also where each is the only one: in their hooks, when all are loaded."""
    if not pairs or not _asked("discover", {"only": pairs, "without": []})[1]:
        return []
    half = len(pairs) // 2
    return [*_ending(pairs[:half]), *_ending(pairs[half:])] if half else list(pairs)


def _deadly(pair: Sequence[str], ended: str) -> dict[str, Any]:
    distribution, name = pair
    there = Installed().get(distribution)
    return {
        "plugin": distribution,
        "name": name,
        "version": there.version if there else "",
        "state": "broken",
        "problem": f"loading it {ended}",
        "mend": f"tk plugins uninstall {distribution}",
        "notes": (),
    }


def _states(there: Installed, rows: Sequence[Mapping[str, Any]]) -> Iterator[Found]:
    """Every plugin with its state; what its metadata says is told where its code is in order."""
    doubled = there.duplicates()
    for row in sorted(rows, key=lambda row: (row["plugin"], row["name"])):
        state, why, mend = row["state"], row["problem"], row["mend"]
        installed = there.get(row["plugin"])
        if state == "disabled":
            why = "by TK_PLUGINS or TK_DISABLE_PLUGINS"
        elif state == "ok" and installed and (text := doubled.get(normal(row["plugin"]))):
            state, why, mend = "duplicate", text, anew(installed)
        elif state == "ok" and installed and (text := stale(installed)):
            state, why, mend = "stale metadata", text, anew(installed)
        notes = [*row["notes"], *(unreadable(installed) if installed else ())]
        yield Found(row["plugin"], row["name"], row["version"], state, why, mend, notes)


def _packages(there: Installed) -> Iterator[Package]:
    """What plugins and libraries depend on besides one another, in their installed versions."""
    for name, wanted in there.wanted().items():
        found = there.get(name)
        unmet = [f"{owner} wants {requirement}" for owner, requirement in wanted if not there.meets(requirement)]
        version = found.version if found else ""
        yield Package(name, version, sorted({owner for owner, _ in wanted}), "; ".join(unmet))


def _broken(
    kinds: Mapping[str, Any],
    components: Sequence[Mapping[str, Any]],
    usable: Sequence[Usable],
    plugins: Sequence[Found],
) -> Iterator[str]:
    """What is chosen by default and cannot be used. Nothing is broken where it was never installed."""
    broken = [plugin for plugin in plugins if plugin.state == "broken"]
    for kind in kinds.values():
        name = kind["default"]
        if not name:
            continue
        here = [c for c in components if c["of"] == kind["kind"] and name in c["names"]]
        why = [u.why for u in usable if u.kind == kind["kind"] and u.default and u.why]
        if why:
            yield f"{kind['singular']} {name}: {why[0]}"
        elif not here and broken:
            those = ", ".join(plugin.distribution for plugin in broken)
            yield f"{kind['singular']} {name}: no plugin that could be loaded has it (broken: {those})"


# --- processes of their own ---


def _ask(question: str, asked: Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tk.probe", question],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stdin:  # one that is gone already is told by how it ended
        stdin.write(json.dumps(asked))
    process.stdin = None  # `communicate` has nothing more to send
    return process


def _answers(process: subprocess.Popen[str]) -> tuple[list[Any], str, str]:
    """What a process has answered, how it ended if not well ("ends the process …"), and the last line it printed.

    One that ends without the last answer (tk.probe.END) has not ended well, whatever its exit code.
    """
    late = ""
    try:
        out, err = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        late = f"takes more than {TIME_LIMIT} seconds"
    rows = [json.loads(line) for line in out.splitlines(keepends=True) if line.endswith("\n")]
    code = process.returncode
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    ended = "" if code == 0 and rows[-1:] == [END] else late or f"ends the process {how}"
    last = err.strip().splitlines()[-1] if err.strip() else ""
    return [row for row in rows if row != END], ended, last


def _asked(question: str, asked: Any) -> tuple[list[Any], str]:
    with _ask(question, asked) as process:
        rows, ended, _ = _answers(process)
    return rows, ended


def _imported(references: Sequence[Sequence[str]]) -> list[str]:
    """Of each, why it cannot be imported; one that ends the process is told, and the rest asked in another."""
    told: list[str] = []
    while len(told) < len(references):
        rows, ended = _asked("imports", references[len(told) :])
        told += rows
        if ended and len(told) < len(references):
            told.append(f"importing it {ended}")
    return told


# --- the machine ---


def _machine() -> dict[str, str]:
    memory, free = _memory()
    disk = shutil.disk_usage(Path.cwd())
    return {
        "tk": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "cpu": f"{_cpu()}, {os.cpu_count()} cores, {_usable_cores()} of them usable",
        "memory": f"{memory / GIB:.1f} GiB" + (f", {free / GIB:.1f} GiB free" if free else ""),
        "disk": f"{disk.free / GIB:.1f} GiB free of {disk.total / GIB:.1f} GiB at {Path.cwd()}",
        "gpu": "; ".join(_gpus()) or "none that nvidia-smi knows",
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    named = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> tuple[int, int]:
    """Bytes of memory: all that this process may have, and what is free of it (0: not known)."""
    info = Path("/proc/meminfo")
    if not info.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 0
    kib = {line.partition(":")[0]: line.split()[1] for line in info.read_text().splitlines()}
    total, free = (int(kib[name]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return (min(total, int(text)), min(free, int(text))) if text.isdecimal() else (total, free)


def _gpus() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return [f"nvidia-smi does not answer: {error}"]
    return [
        f"{name}, {memory}, driver {driver}" for name, memory, driver in (_three(x) for x in done.stdout.splitlines())
    ]


def _three(line: str) -> tuple[str, str, str]:
    name, memory, driver = (word.strip() for word in line.rsplit(",", 2))
    return name, memory, driver


def _torch(process: subprocess.Popen[str]) -> dict[str, str]:
    rows, ended, last = _answers(process)
    if not rows:
        absent = last.startswith("ModuleNotFoundError") and "'torch'" in last
        return {"torch": "not installed" if absent else f"cannot be imported: it {ended} ({last})"}
    (found,) = rows
    devices = [*found["devices"], *(["mps"] if found["mps"] else [])]
    built = f"built for CUDA {found['cuda']}" if found["cuda"] else "built without CUDA"
    return {"torch": f"{found['version']}, {built}; devices: {', '.join(devices) or 'cpu'}"}
