"""`tk serve` under many streaming clients, more than it lets in, and what its memory does over thousands of requests.

python benchmarks/serving.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, median, quantiles
from typing import Any

import httpx
import material
from common import TK, Section, environment, load, table, verdict

CLIENTS, PLACES, SECONDS = 64, 48, 120
"""Clients that ask without a pause, requests that the server lets in, and how long."""
TOKENS = 32
"""Of a prompt, and of an answer at most."""
REQUESTS, WARMUP, FEW, TOGETHER = 3000, 500, 4, 32
"""Requests of a few tokens over which memory is watched, those before them, their tokens, and how many are asked at once."""
PARTS = 12
"""In which these are asked, with a look at the memory after each."""
HELD = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""For glibc's allocator: what is larger is mapped by itself and given back at once when it is freed, so that what is seen is held."""
GROWTH = 5.0
"""Limit: MB a thousand requests, of what is held. A heap with gaps moves by more, in both directions."""


@dataclass
class Heard:
    """What clients were answered. errors: anything but an answer or a 429 that says when to come again."""

    answers: int = 0
    tokens: int = 0
    later: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


@contextmanager
def served(checkpoint: Path, output: Path, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server in a process of its own, and where it listens."""
    command = [TK, "serve", "--model", str(checkpoint), "--port", "0", "--server.max-requests", str(PLACES)]
    with output.open("wb") as file:
        own = subprocess.Popen(command, env=environment(NO_COLOR="1", **env), stdout=file, stderr=file)
    try:
        while not (found := re.search(r"at (http://\S+);", output.read_text(encoding="utf-8"))):
            if own.poll() is not None:
                raise SystemExit(f"{command!r} failed:\n{output.read_text(encoding='utf-8')}")
            time.sleep(0.1)
        yield own, found[1]
    finally:
        own.terminate()
        own.wait(60)


def memory(process: subprocess.Popen[bytes]) -> float:
    """MB that a process holds now."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024 / 1e6  # type: ignore[index]


async def streamed(http: httpx.AsyncClient, url: str, model: str, heard: Heard, draw: random.Random) -> None:
    """One answer in pieces; after a 429, the pause that it asks for."""
    body = {
        "model": model,
        "prompt": [draw.randrange(100, 40_000) for _ in range(TOKENS)],
        "max_tokens": TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begun, used, ended = time.perf_counter(), 0, False
    async with http.stream("POST", f"{url}/v1/completions", json=body) as answer:
        if answer.status_code == 429 and (pause := answer.headers.get("retry-after")):
            heard.later += 1
            await asyncio.sleep(float(pause))
            return
        if answer.status_code != 200:
            heard.errors[f"status {answer.status_code}"] += 1
            return
        async for line in answer.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                ended = True
                continue
            event: dict[str, Any] = json.loads(line.removeprefix("data: "))
            if "error" in event:
                heard.errors[str(event["error"]["message"])] += 1
                return
            if event["usage"]:
                used = event["usage"]["completion_tokens"]
            elif used == 0:
                heard.first.append(time.perf_counter() - begun)
                used = -1
    if not ended or used < 1:
        heard.errors["a stream without an end"] += 1
        return
    heard.answers += 1
    heard.tokens += used
    heard.whole.append(time.perf_counter() - begun)


async def soak(url: str, model: str, seconds: float) -> Heard:
    """All clients, each with one request after the other, until the time is over; what is on its way then is heard to its end."""
    heard, end = Heard(), time.monotonic() + seconds

    async def client(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < end:
            try:
                await streamed(http, url, model, heard, draw)
            except httpx.HTTPError as error:
                heard.errors[repr(error)] += 1

    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as http:
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return heard


async def asked(url: str, model: str, count: int, seed: int) -> Counter[str]:
    """Requests of a few tokens, some at once. Statuses other than 200."""
    draw, errors = random.Random(seed), Counter[str]()
    bodies = iter(
        [
            {"model": model, "prompt": [draw.randrange(100, 40_000) for _ in range(8)], "max_tokens": FEW}
            for _ in range(count)
        ]
    )

    async def client() -> None:
        for body in bodies:
            answer = await http.post(f"{url}/v1/completions", json=body)
            if answer.status_code != 200:
                errors[f"status {answer.status_code}"] += 1

    async with httpx.AsyncClient(timeout=300) as http:
        await asyncio.gather(*(client() for _ in range(TOGETHER)))
    return errors


def watched(own: subprocess.Popen[bytes], url: str, model: str, requests: int, warmup: int) -> tuple[list[float], int]:
    """MB before and after each part of the requests, and how many of them were not answered."""
    errors = asyncio.run(asked(url, model, warmup, 0))
    marks = [memory(own)]
    for part in range(1, PARTS + 1):
        errors += asyncio.run(asked(url, model, requests // PARTS, part))
        marks.append(memory(own))
        print(f"{part * requests // PARTS} requests: {marks[-1]:.1f} MB", file=sys.stderr, flush=True)
    return marks, errors.total()


def growth(marks: list[float], requests: int) -> float:
    """MB a thousand requests: the slope of the line nearest to the marks."""
    places = [requests / 1000 * part / (len(marks) - 1) for part in range(len(marks))]
    return linear_regression(places, marks).slope


def run(quick: bool = False) -> Section:
    seconds, requests, warmup, before = (10, 120, 60, load()) if quick else (SECONDS, REQUESTS, WARMUP, load())
    with tempfile.TemporaryDirectory() as name:
        checkpoint = material.checkpoint(Path(name), quick)
        with served(checkpoint, Path(name) / "server.txt") as (own, url):
            model = checkpoint.name
            begun = time.monotonic()
            heard = asyncio.run(soak(url, model, seconds))
            took = time.monotonic() - begun
        marks, unanswered = {}, 0
        for way, env in (("held", HELD), ("as it is", {})):
            with served(checkpoint, Path(name) / "watched.txt", **env) as (own, url):
                marks[way], errors = watched(own, url, model, requests, warmup)
            unanswered += errors
    grown = {way: growth(own, requests) for way, own in marks.items()}
    seen = {way: ", ".join(f"{mark:.1f}" for mark in own) for way, own in marks.items()}
    met = {"errors": not heard.errors and not unanswered and heard.answers > 0, "growth": grown["held"] < GROWTH}
    rows = [
        ("answers in pieces", f"{heard.answers:,}, {heard.tokens / took:.0f} tokens/s"),
        ("seconds to the first piece: median, 95th of 100", _spread(heard.first)),
        ("seconds to the last", _spread(heard.whole)),
        ("told to come again (429 with Retry-After)", f"{heard.later:,}"),
        ("errors", f"{heard.errors.total() + unanswered}: {verdict(met['errors'])} (limit: none)"),
        ("MB a thousand requests, without gaps", f"{grown['held']:+.2f}: {verdict(met['growth'])} (limit: {GROWTH:g})"),
        ("MB a thousand requests, as it is", f"{grown['as it is']:+.2f}"),
    ]
    lines = [
        f"`tk serve` of SmolLM2-135M-Instruct{' cut to 10 layers' if quick else ''}, fp32: {CLIENTS} clients ask for streams without "
        f"a pause for {seconds} seconds, prompts of {TOKENS} tokens and answers of up to {TOKENS}; {PLACES} requests are let in. Then "
        f"{requests:,} requests of {FEW} tokens to another process, {TOGETHER} at once, after {warmup} that are not watched; what it holds at "
        f"their start and after each part with {'='.join(*HELD.items())}: {seen['held']} MB; and the same to one that is started as users do, "
        f"without that variable: {seen['as it is']} MB. Load before: {before}.",
        "",
        *table(("what", "found"), rows),
        *(f"\n{count} times: {error}" for error, count in heard.errors.most_common(5)),
        "",
        "glibc keeps what is freed in a heap that has gaps, and gives some of it back now and then: the process has more in memory, and that "
        "moves. With the variable it has what is held, which shows whether anything is never let go.",
    ]
    return Section("A server under many clients", lines, all(met.values()))


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.2f}, {quantiles(seconds, n=20)[-1]:.2f}" if len(seconds) > 1 else "-"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds and requests, on a model cut to 10 layers")
    print(run(parser.parse_args().quick).text())
