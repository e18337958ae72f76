"""The worker: an engine in an interpreter that has nothing of tk. Needs the standard library and Python 3.9 only.

Run by path, as `PYTHON -I worker.py CONNECTION LIFELINE FILE CLASS`: two inherited file descriptors, and the class that
wraps the engine. Messages are JSON, each after its length. The class is built with the values of the first message, and has

    busy                         whether a step has anything to do
    add(request, ...) -> None    a request by its name, as `tk_remote.engine` writes it; ValueError refuses it
    cancel(request) -> None
    step() -> list of events     {"request": name, "ids": [...], "logps": [...], "finish": "", "error": ""}
    call of another name         whatever else a message asks for; ValueError is the caller's mistake
"""

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

LENGTH = struct.Struct(">Q")
"""Bytes of a message, before it."""
END = "end"


def send(connection, message):
    """Write a message whole."""
    data = json.dumps(message).encode()
    connection.sendall(LENGTH.pack(len(data)) + data)


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


def load(file, name):
    """A class out of a file that no package needs to be installed for."""
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
            kind = "refused" if isinstance(error, (ValueError, SystemExit)) else "failed"
            send(opened, {"id": message["id"], kind: f"{type(error).__name__}: {error}"})
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
