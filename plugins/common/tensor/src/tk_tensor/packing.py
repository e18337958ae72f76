"""Whether a model keeps samples apart that share a row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tk_tensor.probe import at_rest, distance, on_meta, probe_ids, tolerance
from tk_tensor.route import Route, route_of

LEAK = 1e-6
"""Relative change of a sample's logits when its neighbour's tokens change; what kernels differ by is below it."""


@torch.no_grad()
def probe_packing(module: nn.Module) -> bool:
    """Whether two samples packed in one row get the logits that they get alone, and neither depends on the other.

    A few short forwards. False where a layer does not receive the boundaries of samples (recurrent and linear-attention
    layers, prompt tuning). On the meta device nothing can be tried: convolutions, which such layers have, are looked for.
    """
    if on_meta(module):
        return not any(isinstance(m, nn.Conv1d) for m in module.modules())
    route = route_of(module)
    if "position_ids" in route.ignored:
        return False
    first, second = 6, 5
    ids = probe_ids(module, (2, first + second))
    other = ids.clone()
    other[:, :first] = probe_ids(module, (2, first), seed=1)
    with at_rest(module):
        packed = _logits(route, module, ids, (first, second))
        changed = _logits(route, module, other, (first, second))
        alone = [
            _logits(route, module, part.contiguous(), (part.shape[1],)) for part in ids.split((first, second), dim=1)
        ]
    apart = distance(changed[:, first:], packed[:, first:]) <= LEAK
    return apart and distance(packed, torch.cat(alone, 1)) <= tolerance(module)


def _logits(route: Route, module: nn.Module, ids: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """[B, T, V] of rows that hold samples of these lengths, by the way that training takes."""
    positions = torch.cat([torch.arange(n, device=ids.device) for n in lengths]).expand(len(ids), -1)
    inputs = {"input_ids": ids, "position_ids": positions}
    if route.decoder is None:
        every = torch.arange(ids.numel(), device=ids.device)
        logits = route.logits(module, inputs, every)
    else:
        logits = route.hidden(module, inputs)
        if route.head is not None:
            logits = route.projection(module)(logits)
    return logits.reshape(*ids.shape, -1)
