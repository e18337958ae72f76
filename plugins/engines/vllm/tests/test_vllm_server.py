"""A running `vllm serve` is asked by the engine `openai`: by token ids, and by conversations."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import tk
from tk_conformance.tiny import tiny_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # it may have to make the environment


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "llama", "llama", vocab=300, head_dim=32)


@pytest.fixture(scope="module")
def url(base: Path, vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address, up to /v1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    words = ["--model", base, "--host", "127.0.0.1", "--port", port, "--dtype", "float32", "--max-model-len", 512]
    command = [vllm_python, "-m", "vllm.entrypoints.openai.api_server", *map(str, words), "--enforce-eager"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        until = time.monotonic() + 300
        while not _healthy(port):
            assert server.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < until, log.read_text()[-4000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_it_gives_the_tokens_of_transformers(base: Path, url: str) -> None:
    asked = ["Hello", "What is a number?", "a"]
    sampling = {"max_tokens": 12, "logprobs": True}
    with tk.engine(model=str(base), template="chatml") as here:
        ours = [each[0] for each in here.generate(asked, **sampling)]
    with tk.engine(model=str(base), template="chatml", engine={"name": "openai", "url": url}) as there:
        theirs = [each[0] for each in there.generate(asked, **sampling)]
        pieces = list(there.stream(asked[0], **sampling))
    assert [c.ids for c in theirs] == [c.ids for c in ours]
    whole = [c.text.replace("\ufffd", "") for c in ours]  # what is no whole character is not told by vLLM
    assert [c.text.replace("\ufffd", "") for c in theirs] == whole
    assert [c.finish_reason for c in theirs] == [c.finish_reason for c in ours]
    for a, b in zip(ours, theirs, strict=True):
        assert b.logps == pytest.approx(a.logps, abs=1e-3)
    assert "".join(piece.text for piece in pieces).replace("\ufffd", "") == whole[0]
    assert tuple(token for piece in pieces for token in piece.ids) == ours[0].ids
