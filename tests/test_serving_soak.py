"""A server under many clients, in short: the benchmark `serving` on a tiny model. Nobody gets an error; what is held in memory does not grow.

Memory is watched where the C library gives back at once what is freed (`serving.HELD`): as users have it, gaps in its heap hide what is held.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tk_conformance.tiny import tiny_checkpoint

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc"),
]


def test_many_clients_are_answered_or_told_to_come_again_and_memory_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import serving

    model = tiny_checkpoint(tmp_path / "tiny", "llama")
    with serving.served(model, tmp_path / "server.txt") as (_, url):
        heard = asyncio.run(serving.soak(url, "tiny", 15))
        assert not heard.errors
        assert heard.answers > 64
        assert heard.later > 0, "64 clients are more than are let in"
    with serving.served(model, tmp_path / "watched.txt", **serving.HELD) as (own, url):
        marks, unanswered = serving.watched(own, url, "tiny", 3000, 500)
        assert unanswered == 0
        assert serving.growth(marks, 3000) < serving.GROWTH, marks
