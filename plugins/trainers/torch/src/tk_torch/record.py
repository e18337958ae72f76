"""What a run leaves behind for people: config.yaml, run.json, log.jsonl, and the figures sent to trackers.

Only config.yaml has the secrets of a config, without which a run could not go on; others than its owner cannot read it then.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from tk.compose import Plan
from tk.config.files import to_yaml
from tk.config.secret import published_command
from tk.contracts import Tracker, TrainPlan, TrainResult, World
from tk.errors import TkError, UsageError
from tk.files import TEMPORARY, explained, write_file
from tk_data.prepare import Prepared
from tk_torch import files

RUN, LOG, CONFIG, CHECKPOINTS, FINAL = "run.json", "log.jsonl", "config.yaml", "checkpoints", "final"
SKIPPED, SAMPLES, NOTES = "skipped.jsonl", "samples.jsonl", "notes.jsonl"
PRECOMPUTED = "precomputed"
OWN = (RUN, LOG, CONFIG, CHECKPOINTS, FINAL, SKIPPED, SAMPLES, NOTES, PRECOMPUTED, "report.html", "loss.png")
"""What a run's folder holds, and `output.overwrite` deletes."""


def claim(plan: Plan) -> Path:
    """The run's folder. Raises UsageError where it holds another run; nothing is written yet."""
    settings = plan.config
    folder = Path(settings.output.dir or f"runs/{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output.dir: {folder} is a file.")
    holds = [name for name in (*OWN, *plan.many("trackers")) if (folder / name).exists()]
    if holds and not settings.output.overwrite and not settings.train.resume:
        raise UsageError(
            f"output.dir: {folder} holds another run ({', '.join(holds)}): go on with it (--resume), delete it first "
            "(--output.overwrite), or name another folder (--output)."
        )
    return folder


class Record:
    """The files of a run and its trackers; on rank 0 only."""

    def __init__(self, folder: Path, plan: Plan, world: World, observers: Sequence[Tracker]) -> None:
        self._folder = folder
        self._plan = plan
        self._trackers = [*observers, *(c.build(folder=folder / n) for n, c in plan.many("trackers").items())]
        self._started = False
        self._run: dict[str, Any] = {
            "version": 1,
            "status": "running",
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "parts": plan.described(),
            "plugins": plan.registry.manifests(),
            "seeds": {"train": plan.config.train.seed},
            "git": _git(),
            "hardware": _hardware(world),
            "software": _software(),
            "command": published_command(sys.argv, plan.config.secrets),
        }

    def start(self, found: TrainPlan, data: Prepared, step: int) -> None:
        """The run begins, or goes on after `step`: later lines of the log are taken back.

        Where a new run cannot be written, nothing of it stays.
        """
        config, published = self._as_begun(self._plan.tree), self._as_begun(self._plan.published)
        rejects = self._folder / SKIPPED if data.rejects.count else None
        self._run |= {
            "config": published,
            "plan": asdict(found),
            "data": data.report.as_rows(),
            "rejects": str(rejects or ""),
        }
        if step:
            self._run["resumed_from"] = step
        self._make_folder(new=not step)
        try:
            if rejects:
                data.rejects.write(rejects)
            write_file(self._folder / CONFIG, to_yaml(config), private=config != published)
            write_file(self._folder / LOG, _until(self._folder / LOG, step))
            for name in (SAMPLES, NOTES):
                if (self._folder / name).exists():
                    write_file(self._folder / name, _until(self._folder / name, step))
            self._write()
        except TkError:
            if not step:
                self._delete()
            raise
        self._started = True
        try:
            for tracker in self._trackers:
                tracker.start(found, published, step)
        except TkError:
            if not step:
                self.undo()
            raise

    def _as_begun(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """A config that begins this run again in its own folder."""
        train = {**tree["train"], "resume": False}
        output = {**tree["output"], "dir": str(self._folder), "overwrite": False}
        return {**tree, "train": train, "output": output}

    def _make_folder(self, *, new: bool) -> None:
        """A new run deletes what another one left, or what an interrupted one left before its first checkpoint."""
        with explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in OWN:
                files.discard(self._folder / f"{name}{TEMPORARY}")
                files.discard(files.aside(self._folder / name))
            if new:
                self._delete()
                self._folder.mkdir(exist_ok=True)
            (self._folder / CHECKPOINTS).mkdir(exist_ok=True)

    def _delete(self) -> None:
        """All that a run puts into its folder, and the folder where it holds nothing else."""
        for name in (*OWN, *self._plan.many("trackers")):
            files.remove(self._folder / name)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()

    def log(self, step: int, figures: Mapping[str, float], **more: Any) -> None:
        """A training step: a line of log.jsonl, and its figures for trackers. `more` stands in the line only."""
        self._line({"kind": "train", "step": step, **figures, **more})
        self._track("train", step, figures)

    def progress(self, what: str, done: int, total: int) -> None:
        """How far work between steps is, for the trackers that show it."""
        for tracker in self._trackers:
            if hasattr(tracker, "progress"):
                tracker.progress(what, done, total)

    def log_evaluation(self, step: int, sets: Mapping[str, Mapping[str, float]], flat: Mapping[str, float]) -> None:
        """An evaluation: a line a set of examples; trackers are told the figures in one (`flat`)."""
        for name, figures in sets.items():
            self._line({"kind": "eval", "step": step, "set": name, **figures})
        self._track("eval", step, flat)

    def samples(self, step: int, made: Sequence[Mapping[str, Any]]) -> None:
        """What was generated for a step: a line each of samples.jsonl."""
        for sample in made:
            self._line({"step": step, **sample}, SAMPLES)

    def notes(self, step: int, told: Sequence[Mapping[str, Any]]) -> None:
        """What rewards noted of the answers of a step: a line each of notes.jsonl."""
        for note in told:
            self._line({"step": step, **note}, NOTES)

    def _line(self, values: Mapping[str, Any], name: str = LOG) -> None:
        with explained(self._folder / name), (self._folder / name).open("a", encoding="utf-8") as file:
            file.write(files.json_text(values) + "\n")

    def _track(self, kind: Literal["train", "eval"], step: int, figures: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(kind, step, figures)

    def finish(self, result: TrainResult, timings: Mapping[str, float], **more: Any) -> None:
        """The run came to its end, or was stopped after a whole step."""
        self._run |= {
            "status": "stopped" if result.stopped else "finished",
            "stopped": result.stopped,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "timings": dict(timings),
            "result": {name: value for name, value in asdict(result).items() if name != "samples"},
            **more,
        }
        self._write()
        for tracker in self._trackers:
            tracker.finish(result)

    def undo(self) -> None:
        """The run cannot begin: nothing of it stays."""
        self._started = False
        self._delete()
        for tracker in self._trackers:
            tracker.finish(None)

    def fail(self, error: BaseException) -> None:
        """The run failed; what it had written stays."""
        if not self._started:
            return
        self._run |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        try:
            self._write()
        finally:
            for tracker in self._trackers:
                tracker.finish(None)

    def _write(self) -> None:
        write_file(self._folder / RUN, files.json_text(self._run, indent=1))


def peak_memory(device: str) -> int:
    """Bytes: of the device's allocator, or of the process where it is the CPU."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss begins at the size of the process that started this one
        peak = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_memory() -> int:
    """Bytes that this process has in memory; the most that it has had, on systems that do not tell."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return peak_memory("cpu")
    return int(status.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _until(path: Path, step: int) -> str:
    """The log's whole lines up to a step."""
    if not step or not path.is_file():
        return ""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:  # the line that a kill cut off
            continue
    return "".join(kept)


def _git() -> dict[str, Any] | None:
    """Commit of the working directory and whether it has changes; None outside of a repository."""
    if not any((parent / ".git").exists() for parent in (Path.cwd(), *Path.cwd().parents)):
        return None

    def ask(*words: str) -> str:
        return subprocess.run(("git", *words), capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _hardware(world: World) -> dict[str, Any]:
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "device": world.device,
    }
    if world.device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(world.device)
    return found


def _software() -> dict[str, str]:
    packages = ("tk-kernel", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in packages:
        try:
            found[package] = version(package)
        except ImportError:  # PackageNotFoundError: the run does without it
            continue
    return found
