"""The machines of a run: by which interface its processes speak to one another, and what is told where one is lost."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_address

import psutil
import torch.distributed as dist

from tk.contracts import World
from tk.errors import TkError

INTERFACE = "GLOO_SOCKET_IFNAME"
_GLOO = re.compile(r"\[\S*gloo/\S+\] (?P<what>.+?)(?:\. This is typically|\.?$)", re.MULTILINE)
_ADDRESS = re.compile(r" ?\[(?P<address>[\w.:]+)\]:\d+")

_addresses: list[str] = []
"""Of the processes by rank, for as long as their group lasts."""


def meet(store: dist.Store, rank: int, size: int) -> None:
    """Tell one another by which address each process reaches the others, and have gloo use its interface.

    By itself gloo listens at the address that the machine's own name stands for, which no other machine reaches where it is
    a loopback one, and which others reach where it is not, though all processes are here. An interface that the user names
    (GLOO_SOCKET_IFNAME) stays.
    """
    own = outgoing(os.environ["MASTER_ADDR"])
    _addresses[:] = _told(store, "reached", rank, size, own)
    outside = [address for address in _addresses if not _is_loopback(address)]
    if 0 < len(outside) < size:  # the first machine's name may stand for a loopback address there
        own = outgoing(outside[0]) if _is_loopback(own) else own
        _addresses[:] = _told(store, "address", rank, size, own)
    if INTERFACE not in os.environ:
        os.environ[INTERFACE] = interface_of(own)


def meeting(size: int, limit: timedelta) -> tuple[dist.Store, int]:
    """The store by which the processes of torchrun's environment find one another, and this one's rank.

    Where all of them are on this machine and meet at a loopback address, the store listens there. torch's own listens at all
    addresses of the machine, whichever is named; that of torchrun (TORCHELASTIC_USE_AGENT_STORE) is torchrun's.
    """
    address = outgoing(os.environ["MASTER_ADDR"])
    here = os.environ.get("LOCAL_WORLD_SIZE") == str(size) and _is_loopback(address)
    if not here or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True):
        store, rank, _ = next(dist.rendezvous("env://", timeout=limit))
        store.set_timeout(limit)
        return store, rank
    rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
    listening = None
    if rank == 0:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.create_server((address, port), family=family).detach()
    return dist.TCPStore(address, port, size, rank == 0, limit, master_listen_fd=listening), rank


def _told(store: dist.Store, what: str, rank: int, size: int, value: str) -> list[str]:
    """Every process's value, by rank."""
    told = dist.PrefixStore(f"tk/{what}", store)
    told.set(str(rank), value)
    return [each.decode() for each in told.multi_get([str(other) for other in range(size)])]


def outgoing(host: str) -> str:
    """The address of this machine from which it speaks to `host`, by the first of its addresses that a way leads to.

    Nothing is sent. Raises OSError where there is none.
    """
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM):
        with socket.socket(family, kind, protocol) as asked:
            try:
                asked.connect(address)
            except OSError as error:  # localhost may have an address of IPv6 where there is no IPv6
                failure = error
                continue
            return str(asked.getsockname()[0])
    raise failure


def interface_of(address: str) -> str:
    """The name of the interface that has an address of this machine. Raises TkError where none has it."""
    for name, own in psutil.net_if_addrs().items():
        if address in (each.address for each in own):
            return name
    raise TkError(
        f"No network interface of this machine has the address {address}: name the one to use in {INTERFACE}."
    )


@contextmanager
def lost_explained(world: World) -> Iterator[None]:
    """What torch says of a connection to another process that broke becomes a TkError that names the process."""
    try:
        yield
    except RuntimeError as error:
        said = _GLOO.search(str(error))
        if world.size == 1 or (said is None and not isinstance(error, dist.DistError)):
            raise
        what = said["what"] if said else str(error)
        raise TkError(
            f"Process {world.rank} of {world.size} cannot go on without {_lost(what, world.rank)}: {_ADDRESS.sub('', what)}. "
            "Either it failed or was killed, and its own output may tell why, or the network between them is gone."
        ) from error


def _lost(what: str, rank: int) -> str:
    """Who it is, as far as what torch says tells it: a timeout has no address."""
    found = _ADDRESS.search(what)
    if found is None:
        return "another process"
    ranks = [str(other) for other, own in enumerate(_addresses) if own == found["address"] and other != rank]
    who = f"process {ranks[0]}" if len(ranks) == 1 else f"one of the processes {', '.join(ranks)}" if ranks else "one"
    return f"{who} at {found['address']}"


def _is_loopback(address: str) -> bool:
    return ip_address(address.partition("%")[0]).is_loopback
