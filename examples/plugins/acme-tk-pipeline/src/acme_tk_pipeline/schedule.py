"""One window through both processes: one forward, one backward (PipeDream-Flush, arXiv:2006.09503).

The first process is one micro-batch ahead, so that both compute at once and none keeps the activations of more than
two of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from acme_tk_pipeline.stage import FIRST, Stage
from tk.contracts import Batch, Method
from tk_tensor.collate import reduce_for
from tk_torch.update import Sums, objective


def backward(stage: Stage, method: Method, window: Sequence[Batch], weights: Mapping[str, float]) -> Sums:
    """The gradients of a window's objective in this process's half. weights: normalisers of the window's terms.

    Returns the sums of the step; the first process has none.
    """
    sums = Sums()
    if stage.world.rank == FIRST:
        _first(stage, method, window)
    else:
        _last(stage, method, window, weights, sums)
    stage.link.settle()
    return sums


def _first(stage: Stage, method: Method, window: Sequence[Batch]) -> None:
    ahead: deque[list[Tensor]] = deque()
    for batch in window:
        stage(batch.inputs, batch.fields, method.passes(batch))
        ahead.append(stage.link.crossed())
        if len(ahead) > 1:
            _return(stage, ahead.popleft())
    _return(stage, ahead.popleft())


def _return(stage: Stage, sent: Sequence[Tensor]) -> None:
    """The backward pass of a micro-batch, from the gradients of the activations that were sent."""
    stage.link.settle()
    gradients = [stage.link.receive(hidden.shape, hidden.dtype) for hidden in sent]
    torch.autograd.backward(sent, gradients)


def _last(stage: Stage, method: Method, window: Sequence[Batch], weights: Mapping[str, float], sums: Sums) -> None:
    for batch in window:
        step = method.loss(stage(batch.inputs, batch.fields, method.passes(batch)), batch, reduce_for(batch))
        objective(step, weights).backward()
        stage.link.settle()
        for hidden in stage.link.crossed():
            stage.link.send(torch.zeros_like(hidden) if hidden.grad is None else hidden.grad)
        sums.add(step, batch.origins)
