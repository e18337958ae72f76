"""What stands behind a server besides a text model: one that takes pictures, and a run that has trained vectors."""

from __future__ import annotations

import base64
import json
import runpy
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

import tk
from tk.contracts import Serving
from tk_conformance.tiny import tiny_run

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits" / "make.py"
SAMPLING = {"max_tokens": 4, "logprobs": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Qwen2-VL and two pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    runpy.run_path(str(EXAMPLE))["write_model"](folder / "model")
    noise = np.random.default_rng(0)
    for number, (width, height) in enumerate(((56, 56), (84, 28))):
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> dict[str, Any]:
    return {"name": str(place / "model"), "max_pixels": 6400, "min_pixels": 784}


@pytest.fixture(scope="module")
def serving(model: dict[str, Any]) -> Iterator[Serving]:
    with tk.serve(model=model, sampling=SAMPLING, server={"port": 0, "model_name": "eyes"}) as serving:
        yield serving


def client_of(serving: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0)


def shown(*pictures: str, text: str = "What?") -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_pictures_are_answered_as_rows_with_pictures_are(place: Path, model: dict[str, Any], serving: Serving) -> None:
    asked = [(0,), (1,), (0, 1), ()]
    rows = place / "rows.jsonl"
    with rows.open("w") as file:
        for numbers in asked:
            parts = [{"type": "image", "image": f"{number}.png"} for number in numbers]
            row = {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]}
            file.write(json.dumps(row) + "\n")
    expected = tk.infer(model=model, data=str(rows), sampling=SAMPLING)
    logps = []
    for numbers, answer in zip(asked, expected, strict=True):
        messages = shown(*(data_url(place / f"{number}.png") for number in numbers))
        made = client_of(serving).chat.completions.create(model="eyes", messages=messages, logprobs=True)
        (choice,) = made.choices
        assert choice.message.content == answer.text
        assert choice.logprobs
        logps.append([token.logprob for token in choice.logprobs.content or ()])
        assert logps[-1] == pytest.approx(answer.logps, abs=1e-4)
    assert logps[0] != pytest.approx(logps[1], abs=1e-4), "what is in the picture matters"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("data:image/png;base64,AAAA", "messages: "),
        ("data:image/png;base64,???", "messages: "),
        ("http://localhost:1/x.png", "media.hosts"),
        ("0.png", "a data URL or an http"),
        ("file:///etc/passwd", "a data URL or an http"),
    ],
)
def test_pictures_that_cannot_be_read_are_the_clients_fault(serving: Serving, url: str, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        client_of(serving).chat.completions.create(model="eyes", messages=shown(url))
    assert client_of(serving).chat.completions.create(model="eyes", messages=shown(text="Still there?")).choices


def test_a_picture_that_does_not_come_keeps_nobody_else_waiting(
    model: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host says that it is there, and then a byte now and then."""
    monkeypatch.setenv("TK_CACHE", str(tmp_path))
    ended, asked = threading.Event(), threading.Event()

    class Dripping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            asked.set()
            with suppress(OSError):
                while not ended.wait(0.1):
                    self.wfile.write(b"x")

        def log_message(self, *_: object) -> None:
            pass

    host = ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
    threading.Thread(target=host.serve_forever).start()
    url = f"http://127.0.0.1:{host.server_port}/a.png"
    own: dict[str, Any] = {"sampling": SAMPLING, "media": {"hosts": ["127.0.0.1"]}}
    with tk.serve(model=model, **own, server={"port": 0, "timeout": 2}) as serving, ThreadPoolExecutor() as pool:
        body = {"messages": shown(url)}
        waiting = [
            pool.submit(httpx.post, f"{serving.url}/v1/chat/completions", json=body, timeout=60) for _ in range(3)
        ]
        assert asked.wait(10)
        assert httpx.post(f"{serving.url}/v1/completions", json={"prompt": "x"}, timeout=60).status_code == 200
        assert not any(each.done() for each in waiting)
        assert {each.result().json()["error"]["code"] for each in waiting} == {"timeout"}
    end = time.monotonic() + 10
    while list((tmp_path / "media").iterdir()):
        assert time.monotonic() < end, "what has not come in time is dropped"
        time.sleep(0.05)
    ended.set()
    host.shutdown()
    host.server_close()


def test_log_probs_of_a_text_are_told_by_a_model_that_takes_pictures(serving: Serving) -> None:
    made = client_of(serving).completions.create(model="eyes", prompt="Some words", echo=True, logprobs=1, max_tokens=0)
    told = made.choices[0].logprobs
    assert told
    assert told.token_logprobs
    assert all(logp is not None and logp < 0 for logp in told.token_logprobs[1:])


def test_a_run_that_has_trained_vectors_gives_them(tmp_path: Path) -> None:
    rows = [{"query": f"{i} and {i}?", "positive": f"It is {2 * i}."} for i in range(8)]
    run = tk.train(**tiny_run(tmp_path, rows, method="embedding"), output=str(tmp_path / "run")).output
    texts = ["3 and 3?", "It is 6.", "something else"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    expected = [list(row.values) for row in tk.embed(run=run, data=str(tmp_path / "texts.jsonl"))]
    with tk.serve(run=run, server={"port": 0, "model_name": "vectors"}) as serving:
        client = client_of(serving)
        made = client.embeddings.create(model="vectors", input=texts)
        for found, own in zip(made.data, expected, strict=True):
            assert found.embedding == pytest.approx(own, abs=1e-5)
        with pytest.raises(openai.BadRequestError, match="generates no text"):
            client.chat.completions.create(model="vectors", messages=shown(text="Hello"))
