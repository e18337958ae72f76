"""Keys, numbers, sizes and times; clients that leave; the end of a server."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import tk
from tk.errors import UsageError
from tk_conformance.tiny import tiny_checkpoint

LONG = {"model": "tiny", "prompt": "x", "max_tokens": 400, "stop": ["never said"], "stream": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """It never ends by itself: its end token is one that is not sampled."""
    return str(tiny_checkpoint(tmp_path_factory.mktemp("m") / "tiny", "llama", vocab=300))


def until(holds: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def in_flight(url: str) -> float:
    """Requests on their way, but for this one."""
    text = httpx.get(f"{url}/metrics").text
    return float(re.search(r"^tk_requests_in_flight (\S+)", text, re.MULTILINE)[1]) - 1  # type: ignore[index]


def test_keys_open_and_nothing_else_does(model: str) -> None:
    with tk.serve(model=model, server={"port": 0, "api_keys": ["one", "two"]}) as serving:
        for key, status in (("one", 200), ("two", 200), ("three", 401)):
            done = httpx.get(f"{serving.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert done.status_code == status
        assert httpx.get(f"{serving.url}/v1/models").headers["www-authenticate"] == "Bearer"
        assert httpx.get(f"{serving.url}/metrics").status_code == 401
        assert httpx.get(f"{serving.url}/health").status_code == 200


@pytest.mark.parametrize("key", ["", " "])
def test_an_empty_key_is_refused_before_anything_listens(model: str, key: str) -> None:
    """As a variable that was not set leaves it."""
    with pytest.raises(UsageError, match="api_keys: a key is empty"):
        tk.serve(model=model, server={"port": 0, "api_keys": ["one", key]})


def test_keys_may_come_from_the_environment(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TK_SERVER__API_KEYS", '["one", "two"]')
    with tk.serve(model=model, server={"port": 0}) as serving:
        assert httpx.get(f"{serving.url}/v1/models").status_code == 401
        for key in ("one", "two"):
            done = httpx.get(f"{serving.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert done.status_code == 200


def test_more_than_so_many_requests_are_told_to_come_again(model: str) -> None:
    with tk.serve(model=model, server={"port": 0, "max_requests": 1}) as serving:
        with httpx.stream("POST", f"{serving.url}/v1/completions", json=LONG, timeout=30) as stream:
            assert stream.status_code == 200
            done = httpx.post(f"{serving.url}/v1/completions", json={"model": "tiny", "prompt": "x"})
            assert (done.status_code, done.headers["retry-after"]) == (429, "1")
            assert httpx.get(f"{serving.url}/health").status_code == 200
        assert until(
            lambda: (
                httpx.post(
                    f"{serving.url}/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 1}
                ).status_code
                == 200
            )
        )


def posted(url: str, body: bytes) -> socket.socket:
    """A connection on which a request has been sent."""
    own = socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 0), timeout=10)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    own.sendall(head.encode() + b"\r\n\r\n" + body)
    return own


@contextmanager
def held(tmp_path: Path, *, speaks: bool, **server: Any) -> Iterator[tuple[str, Callable[[], int]]]:
    """A server whose answers never end, and how many of them its engine has on their way."""
    folder = tiny_checkpoint(tmp_path / "tiny", "llama", vocab=300)
    if speaks:
        (folder / "speak").touch()
    plugin = {"files": [str(Path(__file__).parent / "held.py")]}
    own: dict[str, Any] = {"template": "chatml", "engine": "held", "plugins": plugin}
    with tk.serve(model=str(folder), server={"port": 0, **server}, **own) as serving:
        yield serving.url, lambda: int((folder / "held.txt").read_text())


@pytest.mark.parametrize("speaks", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_places_in_the_engine(tmp_path: Path, stream: bool, speaks: bool) -> None:
    """In the midst of an answer, and before its first token."""
    with held(tmp_path, speaks=speaks) as (url, places):
        with posted(url, json.dumps({**LONG, "n": 16, "stream": stream}).encode()) as own:
            assert until(lambda: places() == 16)
            assert in_flight(url) == 1
            if stream and speaks:
                assert b"200 OK" in own.recv(100)
        assert until(lambda: places() == 0, 2)
        assert until(lambda: in_flight(url) == 0, 2)


@pytest.mark.parametrize("speaks", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long_is_given_up(
    tmp_path: Path, stream: bool, speaks: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    with held(tmp_path, speaks=speaks, timeout=0.3) as (url, places):
        done = httpx.post(f"{url}/v1/completions", json={**LONG, "n": 2, "stream": stream}, timeout=30)
        if stream and speaks:
            *pieces, last = done.text.strip().split("\n\n")
            assert (done.status_code, len(pieces) > 2) == (200, True)
            error = json.loads(last.removeprefix("data: "))["error"]
        else:
            assert done.status_code == 504
            error = done.json()["error"]
        assert (error["code"], error["message"]) == ("timeout", "The answer took longer than 0.3 seconds.")
        assert until(lambda: places() == 0, 2)
        assert until(lambda: in_flight(url) == 0, 2)
    assert "Traceback" not in capfd.readouterr().err


def test_a_body_that_does_not_come_is_not_waited_for(model: str) -> None:
    with tk.serve(model=model, server={"port": 0, "timeout": 0.3}) as serving:
        url = httpx.URL(serving.url)
        with socket.create_connection((url.host, url.port or 0), timeout=10) as slow:
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
            assert b"408" in slow.recv(100)


def test_a_client_that_does_not_read_its_answer_frees_its_place_in_time(
    model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its answer is more than sockets hold, and it takes none of it."""
    with tk.serve(model=model, server={"port": 0, "timeout": 1.0}) as serving:
        body = json.dumps({**LONG, "prompt": ["x"] * 64, "n": 4, "logprobs": 20}).encode()
        url = httpx.URL(serving.url)
        with socket.socket() as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            own.connect((url.host, url.port or 0))
            own.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            own.sendall(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert until(lambda: in_flight(serving.url) == 1)
            assert until(lambda: in_flight(serving.url) == 0, 20)
        done = httpx.post(f"{serving.url}/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 1})
        assert done.status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_clients_that_are_slow_to_ask_keep_nobody_waiting(model: str) -> None:
    with tk.serve(model=model, server={"port": 0, "max_requests": 4}) as serving:
        url = httpx.URL(serving.url)
        slow = [socket.create_connection((url.host, url.port or 0), timeout=10) for _ in range(50)]
        for each in slow:
            each.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        done = httpx.post(f"{serving.url}/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 1})
        assert done.status_code == 200
        for each in slow:
            each.close()


@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_who_has_no_key_keeps_nobody_waiting_by_bodies_that_do_not_come(model: str, path: str) -> None:
    """What needs no key, and what is refused without one, is answered at once and takes no place."""
    with tk.serve(model=model, server={"port": 0, "max_requests": 2, "api_keys": ["key"]}) as serving:
        url = httpx.URL(serving.url)
        asked = [socket.create_connection((url.host, url.port or 0), timeout=10) for _ in range(4)]
        for each in asked:
            each.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n".encode())
        status = b"200" if path == "/health" else b"401"
        assert [each.recv(12).split()[1] for each in asked] == [status] * 4
        done = httpx.get(f"{serving.url}/v1/models", headers={"Authorization": "Bearer key"})
        assert done.status_code == 200
        for each in asked:
            each.close()


def test_a_prompt_of_a_hundred_thousand_tokens_is_refused(model: str) -> None:
    with tk.serve(model=model, server={"port": 0}) as serving:
        for prompt in ([5] * 100_000, "word " * 100_000):
            done = httpx.post(f"{serving.url}/v1/completions", json={"model": "tiny", "prompt": prompt}, timeout=30)
            assert (done.status_code, done.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_body_of_unknown_length_is_bounded(model: str) -> None:
    with tk.serve(model=model, server={"port": 0, "max_body": 1000}) as serving:
        pieces = (b"x" * 100 for _ in range(50))
        done = httpx.post(f"{serving.url}/v1/completions", content=pieces, headers={"Content-Type": "application/json"})
        assert done.status_code == 413


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        model = tiny_checkpoint(tmp_path / "m", "llama", vocab=300)
        (model / "model.safetensors").write_bytes(b"")
        with pytest.raises(UsageError, match=f"127.0.0.1:{port} cannot be listened on"):
            tk.serve(model=str(model), server={"port": port})


def test_sigterm_lets_answers_on_their_way_end(model: str) -> None:
    command = [sys.executable, "-m", "tk", "serve", "--model", model, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"}) as server:
        assert server.stderr
        url = re.search(r"at (http://\S+);", server.stderr.readline())[1]  # type: ignore[index]
        texts: list[str] = []

        def ask() -> None:
            with httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=60) as stream:
                texts.extend(stream.iter_lines())

        asking = threading.Thread(target=ask)
        asking.start()
        assert until(lambda: len(texts) > 3)
        server.send_signal(signal.SIGTERM)
        asking.join()
        assert texts[-2] == "data: [DONE]"
        assert server.wait(20) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
