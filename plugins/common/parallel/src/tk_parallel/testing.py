"""Starts several processes with torchrun's environment, for tests of what crosses processes."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PORTS = 20000


def run_processes(
    script: Path,
    *arguments: str,
    world: int,
    timeout: float = 120,
    expect: int | None = 0,
    environment: Mapping[str, str] | None = None,
) -> list[subprocess.CompletedProcess[str]]:
    """Run `python script arguments…` as each rank of a world of processes, one thread each; results in rank order.

    environment: variables of the processes besides; where some are given, one alone has torchrun's too.
    Raises AssertionError with a process's output where its exit code is not `expect` (None: any).
    """
    running = start_processes(script, *arguments, world=world, environment=environment)
    finished = []
    try:
        for process in running:
            output, errors = process.communicate(timeout=timeout)
            finished.append(subprocess.CompletedProcess(process.args, process.returncode, output, errors))
    finally:
        for process in running:
            process.kill()
    for rank, done in enumerate(finished):
        if expect is not None and done.returncode != expect:
            raise AssertionError(f"rank {rank} of {world} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return finished


def start_processes(
    script: Path, *arguments: str, world: int, environment: Mapping[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """The same processes, running; a world of one has no torchrun environment, unless there is more to give it."""
    together = world > 1 or environment is not None
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} if together else {}
    common = {"OMP_NUM_THREADS": "1", **meeting, **(environment or {})}
    return [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**os.environ, **common, **(_ranks(rank, world) if together else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def _ranks(rank: int, world: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on, and that no test beside this one is given.

    Below those that the system gives to outgoing connections, which could take it before it is listened on.
    """
    beside = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = PORTS + beside * 1000 + random.SystemRandom().randrange(1000)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
