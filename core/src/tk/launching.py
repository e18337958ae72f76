"""A run in processes of its own: its config as a file, the command of each process, and what comes back."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from tk.compose import Plan
from tk.config.files import to_yaml
from tk.contracts import Launcher, TrainResult
from tk.errors import TkError, UsageError
from tk.files import explained, write_file
from tk.specs import Spec, StrategySpec

LAUNCH, CONFIG = "launch", "config.yaml"
PORTS = range(24_000, 32_000)
"""Below those that a system gives to outgoing connections, which could take one before it is listened on."""


def free_port() -> int:
    """A TCP port of the loopback interface, at which processes of this machine can meet: nobody listens on it."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def launcher_of(plan: Plan) -> Launcher | None:
    """What starts the processes of a run; None where this process is one of them, or the only one.

    Raises UsageError where it is one of others than the config says.
    """
    chosen = plan.config.chosen.get("launcher")
    launcher: Launcher | None = None if chosen is None else chosen.build()
    if "RANK" in os.environ:
        _check_started(1 if launcher is None else launcher.processes)
        return None
    if launcher is None:
        return None
    alone = launcher.here and not _environment(plan.one("strategy").component.spec)
    return None if alone else launcher


def _check_started(wished: int) -> None:
    """By torchrun's environment. wished: processes that the launcher would start; one says nothing."""
    rank, size = os.environ["RANK"], os.environ.get("WORLD_SIZE")
    if size is None:
        raise UsageError(
            f"RANK is {rank}, but WORLD_SIZE is not set: start the processes by torchrun, or unset RANK to let a launcher start "
            "them."
        )
    if wished not in (1, int(size)):
        raise UsageError(
            f"launcher: it is to start {wished} processes, and this is process {rank} of {size} that were started without it "
            "(WORLD_SIZE): give the same number, or leave the launcher out."
        )


def environment_of(plan: Plan) -> Mapping[str, str]:
    """Variables that the strategy's processes need from their start. Raises TkError where they could not run here."""
    chosen = plan.one("strategy")
    reference = _environment(chosen.component.spec)
    if not reference:
        return {}
    config = chosen.component.config()
    options = config() if chosen.options is None and config is not None else chosen.options
    found: Mapping[str, str] = chosen.component.load(reference)(options)
    return found


def _environment(spec: Spec) -> Any:
    return spec.environment if isinstance(spec, StrategySpec) else ""


def processes(plan: Plan) -> int:
    """Of a run, as its launcher starts them, or as this process was started."""
    launcher = launcher_of(plan)
    return int(os.environ.get("WORLD_SIZE", "1")) if launcher is None else launcher.processes


def command(plan: Plan, config: Path, flags: Sequence[str] = ()) -> list[str]:
    """The command of each process; the config is written to `config`."""
    write_file(config, to_yaml(plan.tree), private=plan.published != plan.tree)
    return argv(plan, config, flags)


def argv(plan: Plan, config: Path, flags: Sequence[str] = ()) -> list[str]:
    """The command by which any launcher starts a process, with what its environment has to have besides the launcher's."""
    variables = [f"{name}={value}" for name, value in environment_of(plan).items()]
    own = [sys.executable, "-m", "tk", "train", "-c", str(config), *flags]
    return ["env", *variables, *own] if variables else own


def launch(plan: Plan, launcher: Launcher, flags: Sequence[str] = ()) -> str:
    """Start the run, whose first process prints what a run prints. Returns to whom it was handed over, "" where it is done."""
    _require(plan)
    folder = Path(plan.config.output.dir)
    if launcher.waits:
        with TemporaryDirectory(prefix="tk-") as name:
            return launcher.launch(command(plan, Path(name) / CONFIG, flags), folder, Path(name))
    own = _submission(folder)
    with explained(own):
        own.mkdir(parents=True)
    try:
        return launcher.launch(command(plan, own / CONFIG), folder, own)
    except TkError:  # a run that cannot begin leaves nothing
        shutil.rmtree(own, ignore_errors=True)
        for empty in (own.parent, folder):
            with suppress(OSError):
                empty.rmdir()
        raise


def shown(plan: Plan, launcher: Launcher) -> str:
    """What would be started."""
    folder = Path(plan.config.output.dir)
    return launcher.shown(argv(plan, _submission(folder) / CONFIG), folder)


def _submission(folder: Path) -> Path:
    """A folder for the next time that a run is handed over: an earlier one may still wait for its turn, and reads its config
    then."""
    taken = [int(path.name) for path in (folder / LAUNCH).glob("*") if path.name.isdecimal()]
    return folder / LAUNCH / str(max(taken, default=0) + 1)


def result_of(plan: Plan, launcher: Launcher) -> TrainResult:
    """Start the run and wait for what it comes to, which its first process writes into a file: what a reward or a library
    prints is the user's. Raises UsageError for a launcher that does not wait."""
    if not launcher.waits:
        raise UsageError("launcher: it hands the run over, so that there is no result to wait for: use `tk train`.")
    with TemporaryDirectory(prefix="tk-") as own:
        result = Path(own) / "result.json"
        launch(plan, launcher, ["--result", str(result)])
        return msgspec.convert(json.loads(result.read_text(encoding="utf-8")), TrainResult, dec_hook=_path)


def _require(plan: Plan) -> None:
    chosen = plan.one("launcher")
    chosen.component.require("launcher", chosen.options)


def _path(type_: type, value: Any) -> Any:
    if type_ is Path:
        return Path(value)
    raise NotImplementedError(type_)
