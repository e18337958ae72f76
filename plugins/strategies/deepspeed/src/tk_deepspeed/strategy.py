"""The strategy `deepspeed`: DeepSpeed's engine, fed with tk's optimizer and with gradients that carry all their factors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tk.contracts import Share, World
from tk.errors import TkError, UsageError
from tk_deepspeed.document import Document, Facts, document_of
from tk_deepspeed.loading import imported, spoken
from tk_deepspeed.options import DeepspeedOptions
from tk_deepspeed.partitions import Partitions, shape_of
from tk_deepspeed.share import share_of
from tk_parallel import processes, state
from tk_parallel.processes import own_device
from tk_parallel.strategy import Autocast, TorchStrategy


class Deepspeed(TorchStrategy):
    """Built as `Deepspeed(options)`. Its engine averages over processes, which `backward` undoes, and counts each window
    as one step: where a window ends it is told."""

    def __init__(self, options: DeepspeedOptions) -> None:
        super().__init__(options.timeout, always_grouped=True)
        self._document: Document = document_of(options)
        self._deepspeed: Any = None
        self._engine: Any = None
        self._partitions: Partitions | None = None
        self._watched: Watched | None = None
        self._while_running = ExitStack()

    def start(self) -> World:
        world = super().start()
        self._deepspeed = imported(world.device)
        return world

    def stop(self) -> None:
        """The group stays: DeepSpeed keeps groups of its own made of it, for the next run of this process too."""
        self._while_running.close()
        if self._engine is not None:
            self._engine.destroy()
            self._engine = self._partitions = None

    def wrap(
        self,
        module: nn.Module,
        precision: str,
        optimizer: Callable[[], torch.optim.Optimizer],
        max_norm: float | None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        self._while_running.enter_context(warnings.catch_warnings())
        # DeepSpeed calls collectives by names that torch is about to drop, which torch tells at each
        warnings.filterwarnings("ignore", r"`torch\.distributed\.", FutureWarning)
        module, made = super().wrap(module, precision, optimizer, max_norm)
        if self._document.stage:
            _check_types(module, precision, self._document.where)
        config = self._document.filled(Facts(precision, max_norm, type(made).__name__, _hidden_size(module)))
        if precision != "fp32" and "bf16" not in config:
            module = Autocast(module, torch.device(self.world.device).type, precision)
        with spoken(f"{self._document.where}: DeepSpeed cannot make an engine of it"):
            self._engine, updating, _, _ = self._deepspeed.initialize(
                model=module, optimizer=made, config=config, dist_init_required=False
            )
        found = int(self._engine.zero_optimization_stage())
        if found != self._document.stage:
            raise TkError(f"{self._document.where}: DeepSpeed runs stage {found}, and not {self._document.stage}.")
        if found:
            self._partitions = Partitions(self._engine, self.world.rank)
        self._watched = Watched(self.plain(self._engine))
        return self._engine, updating

    def spread(self, module: nn.Module, precision: str) -> nn.Module:
        """The engine is made with the optimizer, in `wrap`."""
        return module

    def share(self, module: nn.Module, processes: int, precision: str) -> Share:
        apart = not own_device().startswith("cpu")
        return share_of(self._document, module, processes, precision, hidden=_hidden_size(module), apart=apart)

    def plain(self, module: nn.Module) -> nn.Module:
        inner: nn.Module = module.module if module is self._engine else module
        return inner.module if isinstance(inner, Autocast) else inner

    def synchronise(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        factor = self.world.size * (self._scale.value if self._scale else 1.0)
        self._engine.backward(loss if factor == 1 else loss * factor)

    def step(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        if self._watched is not None:
            self._watched.check()
            self._watched = None
        if self._partitions is None:
            return super().step(module, optimizer)
        self._engine.step()
        if self._engine.optimizer.overflow:
            # with offload and bf16 DeepSpeed leaves what was not finite in the buffer that the next window is added to
            self._partitions.forget_gradients()
            return math.nan
        norm = float(self._engine.get_global_grad_norm())
        return norm if math.isfinite(norm) else math.nan

    def update(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._engine.step()

    def drop(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if self._partitions is None:
            super().drop(module, optimizer)
        else:
            self._partitions.forget_gradients()

    def weights(self, module: nn.Module, trainable: bool) -> Iterator[tuple[str, Tensor]]:
        plain, receive = self.plain(module), self.world.rank == 0
        for name, parameter in plain.named_parameters():
            if parameter.requires_grad or not trainable:
                whole = self._whole(parameter)
                if receive:
                    yield name, whole.cpu()
        if not trainable and receive:
            yield from state.buffers(plain)

    def _whole(self, parameter: nn.Parameter) -> Tensor:
        if self._partitions is not None and parameter in self._partitions:
            return self._partitions.whole(parameter)
        if not hasattr(parameter, "ds_id"):
            return parameter.detach()
        with self._deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()

    def optimizer_state(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Mapping[str, Tensor]:
        if self._partitions is None:
            return super().optimizer_state(module, optimizer)
        return self._partitions.state(dict(self.plain(module).named_parameters()), receive=self.world.rank == 0)

    def restore(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        weights: Mapping[str, Tensor],
        state_: Mapping[str, Tensor],
    ) -> None:
        if self._partitions is None:
            super().restore(module, optimizer, weights, state_)
            return
        plain = self.plain(module)
        parameters = dict(plain.named_parameters())
        shapes = {name: buffer.shape for name, buffer in plain.named_buffers()}
        state.check_shapes(weights, shapes | {name: shape_of(parameter) for name, parameter in parameters.items()})
        for name, value in weights.items():
            if name in parameters:
                self._put(parameters[name], value)
        state.load_weights(plain, {name: value for name, value in weights.items() if name not in parameters})
        if optimizer is not None:
            self._partitions.load_state(parameters, state_)

    @torch.no_grad()
    def _put(self, parameter: nn.Parameter, value: Tensor) -> None:
        assert self._partitions is not None
        if hasattr(parameter, "ds_id"):
            with self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if self.world.rank == 0:
                    parameter.copy_(value)
        else:
            parameter.copy_(value)
        if parameter in self._partitions:
            self._partitions.put(parameter, value)


class Watched:
    """Which trained parameters get a gradient before the first update: DeepSpeed takes one that never comes for zeros, by
    which weights decay and move."""

    def __init__(self, module: nn.Module) -> None:
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._names = list(trained)
        self._seen: set[str] = set()
        self._hooks = [p.register_post_accumulate_grad_hook(partial(_seen, self._seen, n)) for n, p in trained.items()]

    def check(self) -> None:
        """Raises TkError where one got none on any process; every process calls it."""
        for hook in self._hooks:
            hook.remove()
        counts = processes.all_reduce(torch.tensor([name in self._seen for name in self._names], dtype=torch.int64))
        unused = [name for name, count in zip(self._names, counts.tolist(), strict=True) if not count]
        if unused:
            raise TkError(
                f"{len(unused)} trained parameters got no gradient ({unused[0]}, …), which DeepSpeed would take for zeros: "
                "freeze them."
            )


def _seen(names: set[str], name: str, parameter: Tensor) -> None:
    names.add(name)


def _hidden_size(module: nn.Module) -> int | None:
    """The size of the hidden states of the largest model inside, as its config tells it."""
    configs = [part.config for part in module.modules() if hasattr(getattr(part, "config", None), "get_text_config")]
    sizes = [getattr(config.get_text_config(), "hidden_size", None) for config in configs]
    return max((size for size in sizes if size), default=None)


def _check_types(module: nn.Module, precision: str, where: str) -> None:
    """Of stages that partition: what is updated has one type, single precision, since small updates are rounded away in
    others; and no loss is scaled."""
    if precision == "fp16":
        raise UsageError(f"train.precision: fp16 needs losses that are scaled, which {where} does not do: use bf16.")
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise UsageError(
                f"model.dtype: trained weights are kept in fp32 under this strategy, and {name} is {parameter.dtype}: use "
                "auto or fp32."
            )
