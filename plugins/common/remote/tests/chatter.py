"""Engines for a worker, of the standard library only: after a token comes the one below it, down to 3; what it serves is
what `update` has read. They run in an interpreter that has nothing installed."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from tk_worker import Streams


class Chatter:
    def __init__(self, greeting, pause=0.0, refuse="", talks=0, forgets=False, room=0):
        """talks: bytes that an event has besides. forgets: another digest in each process. room: tokens that it takes."""
        if refuse:
            raise ValueError(refuse)
        self._running, self._pause, self._weights = {}, pause, "none"
        self._more = {"more": "." * talks} if talks else {}
        self._own = f" of {os.getpid()}" if forgets else ""
        self.about = {"greeting": greeting, "packages": [n for n in ("torch", "tk", "msgspec") if n in sys.modules]}
        self.about |= {"max_length": room} if room else {}
        print("chatter begins", flush=True)

    @property
    def busy(self):
        return bool(self._running)

    def add(self, request, ids, sampling, stop_ids, adapter):
        if ids[-1] == 99:
            raise ValueError("99 is not for me")
        self._running[request] = [ids[-1], sampling["max_tokens"], set(stop_ids)]

    def cancel(self, request):
        self._running.pop(request, None)

    def step(self):
        time.sleep(self._pause)
        return [event for request in list(self._running) for event in self._next(request)]

    def _next(self, request):
        last, left, stops = self._running[request]
        if last == 66:
            print("66 is the end of me", flush=True)
            os._exit(3)
        token = max(3, last - 1)
        finish = "stop" if token in stops else "length" if left == 1 else ""
        self._running[request] = [token, left - 1, stops]
        if finish:
            del self._running[request]
        event = {"request": request, "ids": [token], "logps": [-float(token)], "finish": finish, "error": ""}
        yield {**event, **self._more}

    def update(self, folder, version):
        names = [name for names in json.loads((Path(folder) / "weights.json").read_text()).values() for name in names]
        if "bad" in names:
            raise RuntimeError("it is half read")
        if "deadly" in names:
            os._exit(4)
        self._weights = f"{version}:{sorted(names)}{self._own}"
        return self._weights

    def digest(self):
        return self._weights

    def sleep(self):
        self._running.clear()

    def environment(self, name):
        return os.environ.get(name, "")

    def fail(self):
        raise RuntimeError("on purpose")


class Later(Chatter):
    """The same, with answers that come asynchronously."""

    def __init__(self, **values):
        super().__init__(**values)
        self._streams = Streams(asyncio.new_event_loop())

    @property
    def busy(self):
        return self._streams.busy

    def add(self, request, ids, sampling, stop_ids, adapter):
        self._streams.begin(request, self._answer(request, ids, sampling, stop_ids, adapter))

    def cancel(self, request):
        self._streams.end(request)

    def step(self):
        return self._streams.step()

    async def _answer(self, request, ids, sampling, stop_ids, adapter):
        super().add(request, ids, sampling, stop_ids, adapter)
        try:
            while request in self._running:
                await asyncio.sleep(self._pause)
                for event in self._next(request):
                    yield event
        finally:
            super().cancel(request)
