"""A server whose engine runs in an interpreter of its own: it is killed, which is told with 503, and the next request is answered."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import tk
from tk_conformance.tiny import tiny_checkpoint

CHATTER = Path(__file__).parents[1] / "plugins" / "common" / "remote" / "tests" / "chatter.py"
PLUGIN = f"""
from pathlib import Path

from tk import EngineSpec, hookimpl
from tk_remote.engine import Remote
from tk_remote.options import WorkerOptions
from tk_remote.start import opener


class Chatter(Remote):
    def __init__(self, *, model, folder):
        options = WorkerOptions(python={f"{sys.base_prefix}/bin/python3"!r})
        values = {{"greeting": "x", "pause": 0.02}}
        opened = opener("chatter", Path({str(CHATTER)!r}), "Chatter", options, values, folder)
        super().__init__("chatter", opened, model=model, folder=folder)


@hookimpl
def tk_engines():
    yield EngineSpec(name="chatter", target=Chatter, summary="Counts down.", supports=("streaming",))
"""


@contextmanager
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TK_CACHE", str(tmp_path / "cache"))
    folder = tiny_checkpoint(tmp_path / "m", "llama", vocab=300)
    (tmp_path / "chatter.py").write_text(PLUGIN)
    with tk.serve(
        model=str(folder),
        template="chatml",
        engine="chatter",
        plugins={"files": [str(tmp_path / "chatter.py")]},
        server={"port": 0, "model_name": "m"},
    ) as serving:
        yield serving.url


def workers() -> set[int]:
    """Of this process, by what they run."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            continue
        if int(parent) == os.getpid() and any(word.endswith(b"tk_remote/worker.py") for word in words):
            found.add(int(entry.name))
    return found


def asked(url: str, start: int, tokens: int) -> httpx.Response:
    body = {"model": "m", "prompt": [start], "max_tokens": tokens}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=60)


def test_a_killed_worker_is_told_and_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path, monkeypatch) as url:
        (first,) = workers()
        assert asked(url, 60, 4).json()["usage"]["completion_tokens"] == 4
        found: list[httpx.Response] = []
        waiting = threading.Thread(target=lambda: found.append(asked(url, 65, 100)))
        waiting.start()
        time.sleep(0.5)
        os.kill(first, signal.SIGKILL)
        waiting.join()
        assert found[0].status_code == 503
        assert "SIGKILL" in found[0].json()["error"]["message"]
        assert "Retry-After" in found[0].headers
        assert asked(url, 60, 4).json()["usage"]["completion_tokens"] == 4
        (second,) = workers()
        assert second != first


def test_nothing_but_its_log_is_left_when_the_server_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path, monkeypatch) as url:
        assert len(workers()) == 1
        assert asked(url, 60, 4).status_code == 200
    assert not workers()
    assert list((tmp_path / "cache" / "engines").glob("chatter-*.log"))
