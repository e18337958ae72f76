"""The server `openai`: a socket, a model behind it, and uvicorn between the two."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from tk.compose import Plan
from tk.contracts import Head
from tk.errors import UsageError
from tk_openai_server.app import create_app
from tk_openai_server.options import ServerOptions
from tk_openai_server.served import Served

KEPT = 75
"""Seconds that an idle connection is kept: longer than clients keep theirs, which else send into one that is just being closed."""


class OpenaiServer:
    """Implements tk.contracts.Server."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options

    def open(self, plan: Plan, run: Path | None, head: Head) -> Serving:
        head = Head("none") if self._options.vectors else head
        if head.kind not in ("lm", "none"):
            raise UsageError(f"{run}: a {head.kind} head has no place in this protocol: `tk infer --run` scores rows.")
        listening = _listening(self._options.host, self._options.port)
        try:
            name = self._options.model_name or (run.name if run else Path(plan.config.model.name).name)
            return Serving(Served(plan, run, name=name, options=self._options, head=head), listening, self._options)
        except BaseException:
            listening.close()
            raise


class Serving:
    """Implements tk.contracts.Serving. The socket listens already: who asks before it runs, waits."""

    def __init__(self, served: Served, listening: socket.socket, options: ServerOptions) -> None:
        host, port = listening.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.model = served.name
        self._socket = listening
        config = uvicorn.Config(
            create_app(served, options),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=options.drain,
            timeout_keep_alive=KEPT,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Answer until SIGTERM or SIGINT; what is on its way is answered first."""
        with _at_peace():
            self._server.run(sockets=[self._socket])

    def start(self) -> None:
        self._thread = threading.Thread(target=self.run, name="server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _at_peace() -> Iterator[None]:
    """uvicorn sends itself the signals that have ended it once more: here they have done what they are for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listening(host: str, port: int) -> socket.socket:
    """Raises UsageError where the address cannot be had, before a model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(f"server: {host}:{port} cannot be listened on: {error.strerror or error}.") from error
