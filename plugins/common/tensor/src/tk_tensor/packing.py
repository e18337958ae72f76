"""Whether a model keeps samples apart that share a row, and samples that share the beginning of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tk.contracts import Layout, MediaProcessor
from tk.errors import TkError
from tk_tensor.branches import Tree, lay_out, masks_for
from tk_tensor.collate import collate_tokens
from tk_tensor.probe import at_rest, distance, on_meta, probe_ids, tolerance
from tk_tensor.route import Route, route_of
from tk_tensor.tokens import Tokens

LEAK = 1e-6
"""Relative change of a sample's logits when its neighbour's tokens change; what kernels differ by is below it."""


@torch.no_grad()
def probe_packing(module: nn.Module, media: MediaProcessor | None = None) -> bool:
    """Whether two samples packed in one row get the logits that they get alone, and neither depends on the other.

    A few short forwards. False where a layer does not receive the boundaries of samples (recurrent and linear-attention
    layers, prompt tuning). On the meta device nothing can be tried: convolutions, which such layers have, are looked for.
    """
    if on_meta(module):
        return _no_convolutions(module)
    route = route_of(module)
    if "position_ids" in route.ignored:
        return False
    first, second = 6, 5
    ids = probe_ids(module, (2, first + second))
    other = ids.clone()
    other[:, :first] = probe_ids(module, (2, first), seed=1)
    with at_rest(module):
        layout = Layout(0, packing=True, media=media)
        packed = _packed(route, module, ids.split((first, second), dim=1), layout)
        changed = _packed(route, module, other.split((first, second), dim=1), layout)
        alone = [_packed(route, module, [part], layout) for part in ids.split((first, second), dim=1)]
    apart = distance(changed[:, first:], packed[:, first:]) <= LEAK
    return apart and distance(packed, torch.cat(alone, 1)) <= tolerance(module)


@torch.no_grad()
def probe_shared_prefix(module: nn.Module, media: MediaProcessor | None = None) -> bool:
    """Whether two samples get the same logits in one row with a shared beginning as in rows of their own.

    On the meta device as `probe_packing`.
    """
    if on_meta(module):
        return masks_for(module) is not None and _no_convolutions(module)
    route = route_of(module)
    if route.masks is None or "position_ids" in route.ignored:
        return False
    trunk, first, second = np.split(probe_ids(module, (1, 16))[0].cpu().numpy(), [7, 12])
    ones = [Tokens(ids, np.ones(len(ids), dtype=np.float32)) for ids in (first, second)]
    tree, layout = Tree(Tokens.untrained(trunk), ones), Layout(0, media=media)
    device = next(module.parameters()).device
    plain_inputs, plain, _, _ = collate_tokens([[e] for e in tree.sequences()], layout)
    shared_inputs, shared, _, _ = lay_out([[tree]], layout)
    with at_rest(module):
        reference = _logits(route, module, plain_inputs, device)[plain["select"]]
        try:
            found = _logits(route, module, shared_inputs, device)[shared["select"]]
        except (TkError, RuntimeError, ValueError, TypeError, IndexError):  # it takes no mask of this form
            return False
    return distance(found, reference) <= tolerance(module)


def _no_convolutions(module: nn.Module) -> bool:
    return not any(isinstance(m, nn.Conv1d) for m in module.modules())


def _packed(route: Route, module: nn.Module, parts: Sequence[Tensor], layout: Layout) -> Tensor:
    """[B, T, V] of rows that hold a sample of each part."""
    samples = [[Tokens.untrained(ids).example({}, "") for ids in part.cpu().numpy()] for part in parts]
    inputs, _, _, _ = collate_tokens(list(zip(*samples, strict=True)), layout)
    logits = _logits(route, module, inputs, parts[0].device)
    return logits.reshape(*inputs["input_ids"].shape, -1)


def _logits(route: Route, module: nn.Module, inputs: Mapping[str, Any], device: torch.device) -> Tensor:
    """[B·T, V] of all positions, by the way that training takes."""
    inputs = {name: value.to(device) for name, value in inputs.items()}
    if route.decoder is None:
        every = torch.arange(inputs["input_ids"].numel(), device=device)
        return route.logits(module, inputs, every)
    states = route.hidden(module, inputs)
    return route.projection(module)(states) if route.head is not None else states
