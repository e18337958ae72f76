"""Parameters in groups: which weight decay leaves alone, and those with a learning rate of their own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from tk.contracts import ParamGroup
from tk_auto.patterns import Groups, matching


def undecayed(module: nn.Module) -> set[nn.Parameter]:
    """Biases, other vectors and scalars, weights of normalisation layers, and what the model itself marks."""
    found = set()
    for owner in module.modules():
        norm = "norm" in type(owner).__name__.lower()
        for name, parameter in owner.named_parameters(recurse=False):
            marked = getattr(parameter, "_no_weight_decay", False)
            if norm or marked or parameter.ndim < 2 or name.rpartition(".")[2] == "bias":
                found.add(parameter)
    return found


def scaled(
    module: nn.Module, trained: Sequence[nn.Parameter], scales: Mapping[str, float], groups: Groups
) -> list[tuple[str, float, list[nn.Parameter]]]:
    """(pattern, factor, parameters) of the trained parameters that a pattern stands for, the first that fits; then the
    rest with "" and 1. Raises UsageError for a pattern that stands for nothing."""
    left = dict.fromkeys(trained)
    found = []
    for pattern, scale in scales.items():
        meant = matching(module, pattern, groups, "tuner.lr_scale")
        own = [p for p in left if p in meant]
        found.append((pattern, scale, own))
        for parameter in own:
            del left[parameter]
    return [*found, ("", 1.0, list(left))]


def split(
    parameters: Sequence[nn.Parameter], exempt: Collection[nn.Parameter], name: str, lr_scale: float = 1.0
) -> list[ParamGroup]:
    """One group with weight decay and one without, each only where it has parameters."""
    groups = [
        ParamGroup([p for p in parameters if p not in exempt], lr_scale, True, name),
        ParamGroup([p for p in parameters if p in exempt], lr_scale, False, f"{name}, no decay"),
    ]
    return [group for group in groups if group.parameters]
