"""Processes find the interface by which other machines reach them, and a process that is lost is named."""

from __future__ import annotations

import json
import os
import signal
import sys
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist

from tk.contracts import World
from tk.errors import TkError
from tk_parallel.machines import INTERFACE, interface_of, lost_explained, meet, outgoing
from tk_parallel.testing import run_processes


@pytest.fixture
def outer(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """An interface of this machine that is not its loopback, and its address; processes have chosen none yet."""
    monkeypatch.setenv(INTERFACE, "")  # so that what is set goes again
    monkeypatch.delenv(INTERFACE)
    up = [name for name, state in psutil.net_if_stats().items() if state.isup]
    for name, addresses in psutil.net_if_addrs().items():
        for own in addresses:
            if name in up and "." in own.address and not own.address.startswith("127."):
                return name, own.address
    pytest.skip("this machine has no address beyond loopback")


def test_an_address_of_this_machine_has_an_interface(outer: tuple[str, str]) -> None:
    name, address = outer
    assert (interface_of(address), outgoing(address)) == (name, address)
    assert interface_of(outgoing("127.0.0.1")) == interface_of("127.0.0.1")
    with pytest.raises(TkError, match=f"203.0.113.9: name the one to use in {INTERFACE}"):
        interface_of("203.0.113.9")


def test_processes_of_one_machine_speak_by_its_loopback(
    outer: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    meet(dist.HashStore(), 0, 1)
    assert _chosen() == interface_of("127.0.0.1")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_processes_of_one_machine_listen_nowhere_else(address: str) -> None:
    script = Path(__file__).with_name("listening_checks.py")
    done = run_processes(script, world=2, environment={"MASTER_ADDR": address})
    for said in (json.loads(process.stdout) for process in done):
        assert said
        assert all(ip_address(each).is_loopback for each in said)


def test_the_interface_that_reaches_the_first_process_is_chosen(
    outer: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", outer[1])
    meet(dist.HashStore(), 0, 1)
    assert _chosen() == outer[0]


def test_an_interface_of_the_users_stays(outer: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", outer[1])
    monkeypatch.setenv(INTERFACE, "mine")
    meet(dist.HashStore(), 0, 1)
    assert _chosen() == "mine"


def test_a_machine_whose_name_is_loopback_to_itself_goes_by_what_reaches_the_others(
    outer: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.1.1")
    store = dist.HashStore()
    for what in ("reached", "address"):
        dist.PrefixStore(f"tk/{what}", store).set("1", outer[1])
    meet(store, 0, 2)
    assert _chosen() == outer[0]


def _chosen() -> str | None:
    return os.environ.get(INTERFACE)


def test_a_process_that_is_lost_is_named() -> None:
    first, second = run_processes(Path(__file__).with_name("lost_checks.py"), world=2, expect=None)
    assert (first.returncode, second.returncode) == (7, -signal.SIGKILL), first.stderr
    assert first.stdout.startswith("Process 0 of 2 cannot go on without process 1 at 127.0.0.1: ")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("unbound_buffer.cc:78] Timed out waiting 9ms for recv operation to complete", "another process: Timed out"),
        (
            "pair.cc:537] Connection closed by peer [10.9.9.9]:4. This is typically",
            "one at 10.9.9.9: Connection closed",
        ),
        (
            "pair.cc:537] Read error [fd00::9]:4: Broken pipe. This is typically",
            "one at fd00::9: Read error: Broken pipe",
        ),
    ],
)
def test_what_gloo_says_is_told_without_its_files_and_ports(said: str, told: str) -> None:
    with pytest.raises(TkError) as raised, lost_explained(World(0, 2, "cpu")):
        raise RuntimeError(f"[/w/third_party/gloo/gloo/transport/tcp/{said} caused by a remote worker.")
    assert str(raised.value).startswith(f"Process 0 of 2 cannot go on without {told}")
    assert ".cc" not in str(raised.value)


def test_other_failures_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="^shapes differ$"), lost_explained(World(0, 2, "cpu")):
        raise RuntimeError("shapes differ")
