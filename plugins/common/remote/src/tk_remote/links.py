"""Ways to an engine that takes and gives plain values: in this process, or in a worker's."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tk.errors import TkError, UsageError
from tk_remote import worker

Event = Mapping[str, Any]
"""What is new of a request: request (its name), ids, logps, finish, error; refused: the error is the request's own fault."""

SHOWN = 15
"""Lines at the end of a worker's log that an error tells."""
GRACE = 5.0
"""Seconds in which a worker may end by itself."""


class LostError(TkError):
    """An engine has gone, with all that was on its way."""


class Link(Protocol):
    """about: what the engine told of itself when it began; `max_length`: the tokens of a prompt and its answer."""

    about: Mapping[str, Any]

    def add(self, **request: Any) -> None:
        """Give a request; one that is refused is heard of as an event."""
        ...

    def cancel(self, request: str) -> None: ...

    def events(self, wait: float) -> list[Event]:
        """What has come; waits that many seconds at most for the first. Raises LostError."""
        ...

    def call(self, do: str, **values: Any) -> Any:
        """Something else that the engine does. Raises UsageError where it refuses, TkError where it fails, LostError."""
        ...

    def close(self) -> None: ...


class Here:
    """An engine in this process."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._refused: list[Event] = []
        self.about: Mapping[str, Any] = getattr(engine, "about", {})

    def add(self, **request: Any) -> None:
        try:
            self._engine.add(**request)
        except ValueError as error:
            none: dict[str, Any] = {"ids": [], "logps": [], "finish": "error", "refused": True}
            self._refused.append({"request": request["request"], "error": str(error), **none})

    def cancel(self, request: str) -> None:
        self._engine.cancel(request)

    def events(self, wait: float) -> list[Event]:
        refused, self._refused = self._refused, []
        return [*refused, *(self._engine.step() if self._engine.busy else ())]

    def call(self, do: str, **values: Any) -> Any:
        try:
            return getattr(self._engine, do)(**values)
        except ValueError as error:
            raise UsageError(str(error)) from error

    def close(self) -> None:
        getattr(self._engine, "close", lambda: None)()


class Worker:
    """An engine in a process of its own, by another interpreter. Nothing listens: it is spoken to over an inherited socket.

    python: the interpreter; file, name: of the class that `tk_remote.worker` builds with `values`. log: what it prints.
    start: seconds that it may take to begin. Raises UsageError where there is no such interpreter or it refuses, TkError
    where it fails.
    """

    def __init__(
        self,
        python: str,
        file: Path,
        name: str,
        values: Mapping[str, Any],
        *,
        log: Path,
        start: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self._numbers = 0
        self._waiting: deque[Event] = deque()
        self._process, self._connection, self._lifeline = _started(python, file, name, log, environment or {})
        try:
            self.about: Mapping[str, Any] = self._asked("open", values, time.monotonic() + start)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def add(self, **request: Any) -> None:
        self._send({"do": "add", "with": request})

    def cancel(self, request: str) -> None:
        with contextlib.suppress(LostError):  # gone with everything else
            self._send({"do": "cancel", "with": {"request": request}})

    def events(self, wait: float) -> list[Event]:
        while self._readable(0 if self._waiting else wait):
            self._read()
        found = list(self._waiting)
        self._waiting.clear()
        return found

    def call(self, do: str, **values: Any) -> Any:
        return self._asked(do, values, None)

    def close(self) -> None:
        """Ask it to end, and end it: nothing of it is left."""
        with contextlib.suppress(LostError):
            self._send({"do": worker.END})
            _ended(self._process, GRACE)
        if self._process.returncode is None:
            # what it has started too; as long as it has not been waited for, nothing else is called by its number
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._connection.close()
        with contextlib.suppress(OSError):
            os.close(self._lifeline)

    def _asked(self, do: str, values: Mapping[str, Any], until: float | None) -> Any:
        self._numbers += 1
        number = self._numbers
        self._send({"do": do, "id": number, "with": dict(values)})
        while True:
            if not self._readable(None if until is None else max(0.0, until - time.monotonic())):
                raise TkError(f"The engine's worker did not begin in its time (see {self._log}).{self._end_of_log()}")
            if (reply := self._read()) is None or reply["id"] != number:
                continue
            if "refused" in reply:
                raise UsageError(f"The engine refuses: {reply['refused']}")
            if "failed" in reply:
                raise TkError(f"The engine failed: {reply['failed']} (see {self._log}).{self._end_of_log()}")
            return reply["result"]

    def _read(self) -> Mapping[str, Any] | None:
        """A reply; None where events have come instead."""
        try:
            message: Mapping[str, Any] = worker.receive(self._connection)
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if "events" not in message:
            return message
        self._waiting.extend(message["events"])
        return None

    def _send(self, message: Mapping[str, Any]) -> None:
        """Write a message whole. What comes meanwhile is read: the worker may not read before it has written, either."""
        left = memoryview(worker.packed(message))
        try:
            while left:
                readable, writable, _ = select.select([self._connection], [self._connection], [])
                if readable:
                    self._read()
                if writable:
                    with contextlib.suppress(BlockingIOError):
                        left = left[self._connection.send(left, socket.MSG_DONTWAIT) :]
        except (OSError, ValueError) as error:
            raise self._lost() from error

    def _readable(self, wait: float | None) -> bool:
        try:
            return bool(select.select([self._connection], [], [], wait)[0])
        except (OSError, ValueError) as error:
            raise self._lost() from error

    def _lost(self) -> LostError:
        code = _ended(self._process, GRACE)
        how = (
            "does not answer"
            if code is None
            else f"was ended by the signal {signal.Signals(-code).name}"
            if code < 0
            else f"ended (exit code {code})"
        )
        return LostError(f"The engine's worker {how} (see {self._log}).{self._end_of_log()}")

    def _end_of_log(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN:]
        except OSError:
            return ""
        return "".join(f"\n  {line}" for line in lines)


def _started(
    python: str, file: Path, name: str, log: Path, environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], socket.socket, int]:
    """The process, the connection to it, and the end of a pipe whose closing ends it."""
    found = shutil.which(str(Path(python).expanduser()))
    if found is None:
        raise UsageError(f"engine.python: {python!r} is no program: give the interpreter of the engine's environment.")
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    inherited: Sequence[int] = (theirs.fileno(), reading)
    script = str(Path(worker.__file__))
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [found, "-I", script, *map(str, inherited), str(file), name],
                env={**_own_environment(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=inherited,
                start_new_session=True,  # a group that is ended as a whole; signals of the terminal are for us
            )
    except OSError as error:
        ours.close()
        os.close(writing)
        raise UsageError(f"engine.python: {python!r} cannot be run: {error}") from error
    finally:
        theirs.close()
        os.close(reading)
    return process, ours, writing


def _ended(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """How a process has ended (a signal's number below 0), once it has, within so many seconds. It stays to be waited for."""
    until = time.monotonic() + seconds
    while process.returncode is None:
        found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None:
            return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        if time.monotonic() > until:
            return None
        time.sleep(0.02)
    return process.returncode


def _own_environment() -> dict[str, str]:
    """Our environment without what is meant for this interpreter: the worker's children would read it."""
    ours = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST")
    return {name: value for name, value in os.environ.items() if name not in ours}


Opener = Callable[[], Link]
