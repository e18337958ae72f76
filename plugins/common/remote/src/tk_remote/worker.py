"""The worker: an engine in an interpreter that has nothing of tk. Needs the standard library and Python 3.9 only.

Run by path, as `PYTHON -I worker.py CONNECTION LIFELINE FILE CLASS`: two inherited file descriptors, and the class that
wraps the engine. Messages are JSON, each after its length. The class is built with the values of the first message, and has

    busy                         whether a step has anything to do
    add(request, ...) -> None    a request by its name, as `tk_remote.engine` writes it; ValueError refuses it
    cancel(request) -> None
    step() -> list of events     {"request": name, "ids": [...], "logps": [...], "finish": "", "error": ""}
    call of another name         whatever else a message asks for; ValueError is the caller's mistake

Such a class finds this file as the module `tk_worker`: `arguments` reads a package's command line, `lora_rank` adapters,
`Streams` follows answers that are asynchronous.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from pathlib import Path

LENGTH = struct.Struct(">Q")
"""Bytes of a message, before it."""
END = "end"
PAUSE = 0.05
"""Seconds that a step of `Streams` waits for something to come."""


def packed(message):
    """A message as bytes."""
    data = json.dumps(message).encode()
    return LENGTH.pack(len(data)) + data


def send(connection, message):
    """Write a message whole."""
    connection.sendall(packed(message))


def receive(connection):
    """Read a message whole. Raises EOFError where the other side has gone."""
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    return json.loads(_exactly(connection, length))


def _exactly(connection, count):
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 20))
        if not part:
            raise EOFError("the connection is closed")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def arguments(parser, defaults, words, package):
    """What a package's own parser makes of the user's words, where they do not say otherwise of tk's defaults.

    `--no-x` takes back a switch `--x` that the parser can only set. Raises ValueError with what the parser says.
    """

    def refuse(message):
        raise ValueError("engine.args: " + package + " says: " + message)

    parser.error = refuse
    known = parser._option_string_actions
    off = {word: "--" + word[5:] for word in words if word.startswith("--no-") and word not in known}
    unknown = [word for word, switch in off.items() if switch not in known]
    if unknown:
        refuse("unrecognized arguments: " + " ".join(unknown))
    return parser.parse_args([word for word in [*defaults, *words] if word not in off and word not in off.values()])


def lora_rank(folders):
    """The largest rank of the adapters in some folders."""
    configs = [json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8")) for folder in folders]
    return max(rank for config in configs for rank in [config["r"], *(config.get("rank_pattern") or {}).values()])


class Streams:
    """Answers of an asynchronous engine, each followed by a task of a loop, which runs while it is stepped or called."""

    def __init__(self, loop):
        self._loop, self._came = loop, asyncio.Event()
        self._events, self._tasks = [], {}

    @property
    def busy(self):
        return bool(self._tasks or self._events)

    def begin(self, request, answer):
        """answer: an asynchronous iterator of events without the request's name; ValueError refuses it."""
        task = self._loop.create_task(self._follow(request, answer))
        self._tasks[request] = task
        task.add_done_callback(lambda _: self._tasks.pop(request))

    def end(self, request):
        """Stop following an answer, which is told so at its next step."""
        if request in self._tasks:
            self._tasks[request].cancel()

    def step(self):
        self.call(self._wait())
        events, self._events = self._events, []
        return events

    def call(self, work):
        """The result of a coroutine, during which answers go on."""
        return self._loop.run_until_complete(work)

    async def _wait(self):
        if not self._events:
            self._came.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._came.wait(), PAUSE)

    async def _follow(self, request, answer):
        nothing = {"ids": [], "logps": [], "finish": "error"}
        try:
            async for event in answer:
                self._heard(request, event)
        except ValueError as error:
            self._heard(request, {**nothing, "error": str(error), "refused": True})
        except Exception as error:  # noqa: BLE001 - told to whoever asks; the log has where
            traceback.print_exc()
            self._heard(request, {**nothing, "error": f"{type(error).__name__}: {error}"})

    def _heard(self, request, event):
        self._events.append({"error": "", **event, "request": request})
        self._came.set()


def load(file, name):
    """A class out of a file that no package needs to be installed for."""
    sys.modules["tk_worker"] = sys.modules[__name__]
    spec = importlib.util.spec_from_file_location("tk_worker_engine", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def answer(engine, message):
    """What a message asks for: its result, or why there is none."""
    try:
        result = getattr(engine, message["do"])(**message["with"])
    except ValueError as error:
        return {"refused": str(error)}
    except Exception as error:  # noqa: BLE001 - told to whoever asks; the log has where
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}
    return {"result": result}


def serve(connection, engine):
    """Answer messages, and step in between, until the end is asked for. An error of a step ends the worker."""
    while True:
        while select.select([connection], [], [], 0 if engine.busy else None)[0]:
            message = receive(connection)
            if message["do"] == END:
                return
            found = answer(engine, message)
            if "id" in message:
                send(connection, {"id": message["id"], **found})
            elif "result" not in found:
                told = found.get("refused") or found["failed"]
                event = {"request": message["with"]["request"], "ids": [], "logps": [], "finish": "error"}
                send(connection, {"events": [{**event, "error": told, "refused": "refused" in found}]})
        events = engine.step()
        if events:
            send(connection, {"events": events})


def watch(lifeline):
    """End with whoever has started this, however that ends, and take along what was started here."""
    while os.read(lifeline, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main(connection, lifeline, file, name):
    threading.Thread(target=watch, args=(int(lifeline),), daemon=True).start()
    with socket.socket(fileno=int(connection)) as opened:
        message = receive(opened)
        try:
            engine = load(file, name)(**message["with"])
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above; parsers of arguments exit
            traceback.print_exc()
            refused = isinstance(error, ValueError)
            found = {"refused": str(error)} if refused else {"failed": f"{type(error).__name__}: {error}"}
            send(opened, {"id": message["id"], **found})
            return 1
        send(opened, {"id": message["id"], "result": getattr(engine, "about", {})})
        try:
            serve(opened, engine)
        except (EOFError, ConnectionError):
            return 1
        finally:
            getattr(engine, "close", lambda: None)()
    return 0


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # engines leave threads behind
