"""Two hosts train together: network namespaces with addresses, names and loopback interfaces of their own, joined by a wire."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import tk
from tk_conformance.tiny import tiny_run

ADDRESSES = ("10.77.0.1", "10.77.0.2")
NAMES = ("first", "second")
OWN = ("--net", "--uts", "--mount")
"""The namespaces of a host."""

PROGRAMS = ("ip", "unshare", "nsenter", "mount", "hostname")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME")
PORT = 29500
LISTENS = "0A"
"""The state of a listening socket in /proc/net/tcp."""


@dataclass(frozen=True)
class Host:
    """inside: what runs a command there."""

    rank: int
    inside: Sequence[str]

    def start(self, command: Sequence[str], **variables: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        environment = {**kept, "OMP_NUM_THREADS": "1", **variables}
        return subprocess.Popen(
            [*self.inside, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *command: str) -> str:
        with self.start(command) as running:
            said, errors = running.communicate(timeout=30)
        if running.returncode:
            raise OSError(f"{' '.join(command)}: {errors.strip()}")
        return said

    def listening(self) -> set[tuple[str, int]]:
        """Addresses and ports, beyond loopback; every address as "any"."""
        lines = self.run("cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()
        locals_ = [words[1] for words in map(str.split, lines) if words[3] == LISTENS]
        found = {(_address(number), int(port, 16)) for number, _, port in (local.partition(":") for local in locals_)}
        return {(address, port) for address, port in found if not address.startswith("127.")}


def _address(number: str) -> str:
    """Of /proc/net/tcp or tcp6, whose groups of four bytes are turned round."""
    if not int(number, 16):
        return "any"
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(number[-8:])))


def _held(stack: ExitStack, *command: str) -> str:
    """The id of a process in namespaces of its own, which last as long as it: until nobody holds its standard input."""
    process = stack.enter_context(
        subprocess.Popen([*command, "sh", "-c", "echo there; exec cat"], stdin=-1, stdout=-1, stderr=-1, text=True)
    )
    assert process.stdout is not None
    if process.stdout.readline() != "there\n":
        raise OSError(f"{' '.join(command)}: {process.communicate()[1].strip()}")
    return str(process.pid)


def _pair(stack: ExitStack, folder: Path) -> Sequence[Host]:
    """Machines as Debian sets one up: its own name stands for a loopback address. Each knows the other by its name."""
    user = _held(stack, "unshare", "--map-root-user")
    enter = ("nsenter", "--preserve-credentials", "--user", "--target")
    pids = [_held(stack, *enter, user, "unshare", *OWN) for _ in NAMES]
    hosts = [Host(rank, [*enter, pid, *OWN]) for rank, pid in enumerate(pids)]
    hosts[0].run("ip", "link", "add", "wire0", "type", "veth", "peer", "wire1", "netns", pids[1])
    for host, name, address in zip(hosts, NAMES, ADDRESSES, strict=True):
        known = folder / f"hosts-{name}"
        others = [f"{a} {n}\n" for a, n in zip(ADDRESSES, NAMES, strict=True) if n != name]
        known.write_text("".join(["127.0.0.1 localhost\n", f"127.0.1.1 {name}\n", *others]))
        host.run("mount", "--bind", str(known), "/etc/hosts")
        host.run("hostname", name)
        host.run("ip", "address", "add", f"{address}/24", "dev", f"wire{host.rank}")
        for device in ("lo", f"wire{host.rank}"):
            host.run("ip", "link", "set", device, "up")
    return hosts


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Host]]:
    """They vanish with the processes that hold them, and the wire with them."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"two hosts cannot be made without {', '.join(missing)}")
    with ExitStack() as stack:
        try:
            made = _pair(stack, tmp_path_factory.mktemp("hosts"))
        except OSError as error:
            pytest.skip(f"two hosts cannot be made here: {error}")
        yield made


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    folder = tmp_path_factory.mktemp("inputs")
    rows = [{"prompt": f"{i}?", "completion": f"It is {i * i}."} for i in range(24)]
    return tiny_run(folder, rows)


@contextmanager
def _training(
    hosts: Sequence[Host], config: Mapping[str, Any], way: str, meeting: str
) -> Iterator[Sequence[subprocess.Popen[str]]]:
    """The run's processes, one on each host, which meet at an address of the first; none stays."""
    file = Path(config["output"]).with_suffix(".json")
    file.write_text(json.dumps(config))
    train = ["-m", "tk", "train", "-c", str(file)]
    if way == "torchrun":
        nodes = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", meeting, "--master-port", str(PORT))
        torchrun = [sys.executable, "-m", "torch.distributed.run", *nodes]
        running = [host.start([*torchrun, "--node-rank", str(host.rank), *train]) for host in hosts]
    else:
        common = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        common |= {"MASTER_ADDR": meeting, "MASTER_PORT": str(PORT)}
        running = [host.start([sys.executable, *train], RANK=str(host.rank), **common) for host in hosts]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def test_each_host_has_its_own_network_and_name(hosts: Sequence[Host]) -> None:
    own = [re.findall(r"inet ([\d.]+)/", host.run("ip", "-4", "address")) for host in hosts]
    assert own == [["127.0.0.1", address] for address in ADDRESSES]
    assert tuple(host.run("hostname").strip() for host in hosts) == NAMES
    assert len({os.readlink("/proc/self/ns/net"), *(host.run("readlink", "/proc/self/ns/net") for host in hosts)}) == 3


@pytest.mark.parametrize(
    ("way", "meeting", "strategy", "tuner"),
    [
        pytest.param("environment", NAMES[0], "ddp", "lora", id="environment-ddp-lora"),
        pytest.param("torchrun", ADDRESSES[0], "fsdp", "full", id="torchrun-fsdp-full", marks=pytest.mark.slow),
    ],
)
def test_a_run_on_two_hosts_is_that_of_one_process(
    hosts: Sequence[Host], inputs: Mapping[str, Any], tmp_path: Path, way: str, meeting: str, strategy: str, tuner: str
) -> None:
    config = {**inputs, "strategy": strategy, "tuner": tuner}
    tk.train({**config, "output": str(tmp_path / "one")})
    with _training(hosts, {**config, "output": str(tmp_path / "two")}, way, meeting) as running:
        said = [process.communicate(timeout=240) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    run = json.loads((tmp_path / "two/run.json").read_text())
    assert (run["plan"]["world"], run["hardware"]["processes"]) == (2, 2)
    losses, weights = ([read(tmp_path / name) for name in ("one", "two")] for read in (_losses, _weights))
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert (weights[1][name] - value).norm() <= 1e-5 * value.norm()


def _losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train"]


def _weights(run: Path) -> dict[str, Any]:
    (file,) = (run / "final").glob("*.safetensors")
    return load_file(file)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_is_named_on_the_other_host_which_ends(
    hosts: Sequence[Host], inputs: Mapping[str, Any], tmp_path: Path, killed: int
) -> None:
    """Meanwhile nothing listens but where processes meet, and each of them on its own host's address."""
    config = {**inputs, "train": {"steps": 100000, "save_every": 2}, "output": str(tmp_path / "run")}
    with _training(hosts, config, "environment", NAMES[0]) as running:
        while not list((tmp_path / "run").glob("checkpoints/step-*")):
            assert [process.poll() for process in running] == [None, None]
            time.sleep(0.1)
        listening = [host.listening() for host in hosts]
        assert [{address for address, _ in own} for own in listening] == [{"any", ADDRESSES[0]}, {ADDRESSES[1]}]
        assert [port for address, port in listening[0] if address == "any"] == [PORT]
        begun = time.monotonic()
        running[killed].send_signal(signal.SIGKILL)
        said = running[1 - killed].communicate(timeout=60)[1]
        assert time.monotonic() - begun < 30
    assert running[1 - killed].returncode == 1
    lost = f"process {killed} at {ADDRESSES[killed]}"
    assert re.search(rf"^Error: Process {1 - killed} of 2 cannot go on without {lost}: ", said, re.MULTILINE), said
    assert "Traceback" not in said
