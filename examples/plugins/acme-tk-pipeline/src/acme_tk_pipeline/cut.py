"""Cutting a causal language model in two: embeddings and the first layers, the other layers with norm and head.

What a process does not hold is replaced by something without weights, so that names, masks and positions stay the
whole model's, and its own forward runs what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from acme_tk_pipeline.link import Elsewhere, Link, Receiving, Sending
from tk.errors import UsageError
from tk_tensor.route import Route


@dataclass(frozen=True)
class Halves:
    """Paths of a model's parts by the process that holds them. tied: weights that head and embeddings share."""

    parts: tuple[tuple[str, ...], tuple[str, ...]]
    embeddings: str
    norm: str
    head: str
    tied: tuple[nn.Parameter, ...]


def halves(module: nn.Module, route: Route, first_layers: int | None) -> Halves:
    """Where a model is cut. Raises UsageError for one that is not made of embeddings, layers, a norm and a head, or that
    would leave a process without anything to do or to train."""
    name = type(module.get_base_model() if hasattr(module, "get_base_model") else module).__name__
    refused = f"trainer pipeline: {name} is not made of embeddings, layers, a norm and a head: use the trainer torch."
    head = route.head or route.labels
    if route.decoder is None or head is None or route.whole_scores:
        raise UsageError(refused)
    decoder: Any = module.get_submodule(route.decoder)
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList) or not hasattr(decoder, "norm"):
        raise UsageError(refused)
    paths = {id(part): path for path, part in module.named_modules()}
    embedding = decoder.get_input_embeddings()
    layers = [paths[id(layer)] for layer in decoder.layers]
    count = first_layers or len(layers) // 2
    if not 0 < count < len(layers):
        raise UsageError(f"strategy.first_layers: {name} has {len(layers)} layers, and each process needs one.")
    ends = paths[id(embedding)], paths[id(decoder.norm)]
    parts = (ends[0], *layers[:count]), (*layers[count:], ends[1], head)
    first, last = ({p for path in own for p in module.get_submodule(path).parameters()} for own in parts)
    if not first | last >= set(module.parameters()):
        raise UsageError(refused)
    if any(p.requires_grad for p in first) != any(p.requires_grad for p in last):
        raise UsageError("tuner: leaves one of the two processes nothing to train: use the trainer torch.")
    return Halves(parts, *ends, head, tuple(p for p in module.parameters() if p in first & last))


def cut(module: nn.Module, at: Halves, rank: int, link: Link) -> dict[str, nn.Module]:
    """Leave this process its half. Returns what was taken out by its paths, without weights."""
    taken = {path: module.get_submodule(path) for path in at.parts[1 - rank]}
    if rank == 0 and at.tied:
        del taken[at.head]
    table: Any = module.get_submodule(at.embeddings)
    size, dtype = table.weight.shape[1], table.weight.dtype
    for path in taken:
        module.set_submodule(path, Elsewhere())
    if rank == 0:
        module.set_submodule(at.norm, Sending(link))
    else:
        module.set_submodule(at.embeddings, Receiving(link, size, dtype))
    return {path: part.to("meta") for path, part in taken.items()}
