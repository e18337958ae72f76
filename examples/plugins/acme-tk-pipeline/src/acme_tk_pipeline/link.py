"""What the two processes send each other: activations to the second one, their gradients back to the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Link:
    """The way to the other process. Tensors arrive in the order in which they were sent."""

    def __init__(self, peer: int) -> None:
        self._peer = peer
        self._leaving: list[tuple[dist.Work, Tensor]] = []
        self._crossing: list[Tensor] = []

    def send(self, tensor: Tensor) -> None:
        """Without waiting, since the other process may be sending as well."""
        kept = tensor.detach().contiguous()
        work = dist.isend(kept, self._peer)
        assert work is not None  # this process is one of the group
        self._leaving.append((work, kept))

    def receive(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        found = torch.empty(shape, dtype=dtype)
        dist.recv(found, self._peer)
        return found

    def settle(self) -> None:
        """Wait until all that was sent has arrived."""
        for work, _ in self._leaving:
            work.wait()
        self._leaving.clear()

    def cross(self, activation: Tensor) -> None:
        """An activation has been sent or received, and is differentiated where anything is."""
        if torch.is_grad_enabled():
            self._crossing.append(activation)

    def crossed(self) -> list[Tensor]:
        """The activations of the passes with gradient since the last call."""
        found, self._crossing = self._crossing, []
        return found


class Sending(nn.Module):
    """In the place of the first process's final norm: hidden states [B, T, H] leave for the second."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def forward(self, hidden: Tensor) -> Tensor:
        self._link.send(hidden)
        self._link.cross(hidden)
        return hidden


class Receiving(nn.Module):
    """In the place of the second process's embeddings: hidden states [B, T, H] of token ids [B, T] come from the first."""

    def __init__(self, link: Link, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self._link, self._size, self._dtype = link, size, dtype

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self._link.receive((*ids.shape, self._size), self._dtype)
        hidden.requires_grad_(torch.is_grad_enabled())
        self._link.cross(hidden)
        return hidden


class Elsewhere(nn.Module):
    """In the place of a layer that the other process holds: passes on what it is given."""

    def forward(self, hidden: Tensor, *_: object, **__: object) -> Tensor:
        return hidden
