"""Memory of a computation without its numbers: weights that have shapes only, and a count of the bytes that are alive.

A module whose parameters are weightless runs forwards and backwards through the code that a run takes, on the kernels that its
device would take, and computes nothing. What its tensors would hold is counted as they come and go.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WORKING = "activations"
"""Kind of what is computed: saved for the backward pass, or on its way."""


class TooLong(RuntimeError):
    """A computation has more steps than there is time for."""


class Meter(TorchDispatchMode):
    """Counts the bytes of living storages by kind, while it is entered and afterwards.

    Where a computation asks for a number that nobody knows, it is told 1; a mask that nobody knows selects everything.
    now: by kind. peak: by kind, at the moment when they were the most together. Storages count once, whatever tensors view them.
    device: type of the device whose memory is counted.
    seconds: of the processor that computations may take before they are broken off with TooLong.
    """

    def __init__(self, device: str = "cpu", seconds: float = 60.0) -> None:
        super().__init__()
        self._device = device
        self.now: Counter[str] = Counter()
        self.peak: Mapping[str, int] = {}
        self._kinds: dict[int, str] = {}
        self._dying: dict[int, weakref.ref[Any]] = {}
        self._most, self._total = 0, 0
        self._until = time.process_time() + seconds

    def count(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """These tensors, those on the device, are of a kind, whether they were known before or not."""
        for tensor in tensors:
            if tensor.device.type != self._device:
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._kinds:
                self.now[self._kinds[key]] -= size
                self.now[kind] += size
                self._kinds[key] = kind
            else:
                self._add(key, kind, storage, size)

    def hold(self, kind: str, size: int) -> None:
        """So many bytes are there besides, of no tensor that is known."""
        self.now[kind] += size
        self._total += size

    def forget(self) -> None:
        """The peak is looked for from now on."""
        self._most, self.peak = self._total, dict(self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.process_time() > self._until:
            raise TooLong("it takes too many steps")
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return torch.ones((), dtype=args[0].dtype).item()
        if func is torch.ops.aten.nonzero.default and isinstance(args[0], FakeTensor):
            return _all(args[0])
        if func in INDEXED:
            args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.device.type == self._device:
                storage = tensor.untyped_storage()
                if storage._cdata not in self._kinds:
                    self._add(storage._cdata, WORKING, storage, storage.nbytes())
        return output

    def _add(self, key: int, kind: str, storage: Any, size: int) -> None:
        def gone(_: object) -> None:
            self.now[self._kinds.pop(key)] -= size
            self._total -= size
            del self._dying[key]

        self._kinds[key] = kind
        self._dying[key] = weakref.ref(storage, gone)
        self.now[kind] += size
        self._total += size
        if self._total > self._most:
            self._most, self.peak = self._total, dict(self.now)


aten = torch.ops.aten
INDEXED = (
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index_put.default,
)
"""Operations on (values, indices): what they give has as many rows as a mask among the indices selects."""


def _all(mask: Tensor) -> Tensor:
    """[n, dimensions] places of all elements."""
    return torch.ones(mask.shape, dtype=torch.bool, device=mask.device).nonzero()


def _places(index: Tensor | None) -> Iterable[Tensor | None]:
    """An index; in the place of a mask, those of the elements that it selects."""
    if index is None or index.dtype not in (torch.bool, torch.uint8):
        return (index,)
    return (_all(index) if isinstance(index, FakeTensor) else index.nonzero()).unbind(1)


def weightless(module: nn.Module, device: str) -> None:
    """Give a module on the meta device parameters and buffers that say they are on `device`, and hold nothing.

    What is tied stays tied. Other tensors (a batch's) are real, so that what depends on their numbers is as in a run.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, tuple[Tensor, Any]] = {}  # with the original, whose id no other is to take

    def ghost(tensor: Tensor) -> Any:
        if id(tensor) not in made:
            fake: Any = FakeTensor(mode, tensor.detach(), torch.device(device)) if tensor.is_meta else tensor.detach()
            if isinstance(tensor, nn.Parameter):
                fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
            made[id(tensor)] = (tensor, fake)
        return made[id(tensor)][1]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = ghost(tensor)
