"""The launcher `local`: torchrun's environment for processes on this machine, none of which outlives the others."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tk.errors import TkError, UsageError
from tk.launching import free_port
from tk_local_launcher.options import LocalOptions

POLL = 0.05
TOLD = 12
"""Last lines of a failed process that are told."""
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class LocalLauncher:
    """Implements tk.contracts.Launcher."""

    waits = True

    def __init__(self, options: LocalOptions) -> None:
        self._options = options
        self.processes = options.processes
        self.here = options.processes == 1

    def launch(self, command: Sequence[str], folder: Path, own: Path) -> str:
        """The first process prints here; what the others print is told where they fail."""
        logs = [own / f"rank-{rank}.log" for rank in range(self._options.processes)]
        port = free_port()
        children: list[subprocess.Popen[bytes]] = []
        ended: Collection[int] = ()
        with _signals(lambda number: [child.send_signal(number) for child in children]):
            try:
                for rank, log in enumerate(logs):
                    with log.open("wb") as file:
                        children.append(self._start(command, rank, port, file))
                first = self._wait(children)
            finally:
                ended = _end(children, self._options.grace)
        codes = {
            rank: child.returncode for rank, child in enumerate(children) if rank not in ended and child.returncode
        }
        if codes:
            usage = all(code == UsageError.exit_code for code in codes.values())
            ranks = sorted(codes, key=lambda rank: (rank != first, rank))
            told = [self._told(codes[rank], rank, logs[rank], None if usage else folder) for rank in ranks]
            on = f"Go on from its newest checkpoint: tk train --run {shlex.quote(str(folder))} --resume"
            lines = [*dict.fromkeys(told), *([on] if (folder / "checkpoints").is_dir() else [])]
            raise (UsageError if usage else TkError)("\n".join(lines))
        return ""

    def shown(self, command: Sequence[str], folder: Path) -> str:
        count = self._options.processes
        return f"{count} process{'es' if count > 1 else ''} of: {shlex.join(command)}"

    def _start(self, command: Sequence[str], rank: int, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
        first = rank == 0
        return subprocess.Popen(
            command,
            env={**os.environ, **self._environment(rank, port)},
            stdin=subprocess.DEVNULL,
            stdout=None if first else log,
            stderr=None if first else log,
            start_new_session=True,  # a signal from the terminal comes by way of the launcher, once
            preexec_fn=_dies_with_parent if sys.platform == "linux" else None,
        )

    def _environment(self, rank: int, port: int) -> Mapping[str, str]:
        size = self._options.processes
        threads = max(1, (os.cpu_count() or 1) // size)
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
        return {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            "MASTER_ADDR": "127.0.0.1",
            **{name: str(value) for name, value in ranks.items()},
        }

    def _wait(self, children: Sequence[subprocess.Popen[bytes]]) -> int | None:
        """The rank of the process that failed first; None where all have ended well."""
        while True:
            codes = [child.poll() for child in children]
            failed = [rank for rank, code in enumerate(codes) if code]
            if failed:
                return _first(failed, codes)
            if all(code == 0 for code in codes):
                return None
            time.sleep(POLL)

    def _told(self, code: int, rank: int, log: Path, folder: Path | None) -> str:
        """How a process failed, and the last lines that it said; all of them are kept in the folder of the run, where it
        has one."""
        how = f"was ended by the signal {signal.Signals(-code).name}" if code < 0 else f"failed (exit code {code})"
        who = f"Process {rank} of {self._options.processes} {how}"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if rank else []
        if not lines:
            return f"{who}{', as told above' if not rank and code > 0 else ''}."
        kept = ""
        if len(lines) > TOLD and folder is not None and folder.is_dir():
            (folder / "launch").mkdir(exist_ok=True)
            kept = f" ({shutil.copy(log, folder / 'launch')})"
        return who + kept + "".join(f"\n  {line}" for line in lines[-TOLD:])


def _first(failed: Sequence[int], codes: Sequence[int | None]) -> int:
    """Of processes that failed at the same time, one that was killed: the others fail because of it."""
    return min(failed, key=lambda rank: ((codes[rank] or 0) > 0, rank))


def _end(children: Sequence[subprocess.Popen[bytes]], grace: float) -> set[int]:
    """Wait for those that are left, ask them to end, and end them. Returns who had to be asked."""
    asked: set[int] = set()
    for ask in (None, signal.SIGTERM, signal.SIGKILL):
        left = {rank: child for rank, child in enumerate(children) if child.poll() is None}
        if ask is not None:
            asked |= left.keys()
            for child in left.values():
                child.send_signal(ask)
        end = time.monotonic() + grace
        while any(child.poll() is None for child in left.values()) and time.monotonic() < end:
            time.sleep(POLL)
    return asked


@contextmanager
def _signals(forward: Callable[[int], object]) -> Iterator[None]:
    """SIGTERM and SIGINT go to the processes, which save and end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda n, _: forward(n)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _dies_with_parent() -> None:
    """In the child: it is killed when the thread that started it ends, however that ends."""
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
