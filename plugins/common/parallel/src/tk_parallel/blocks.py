"""The blocks of a model: the modules that it has many of, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from tk.errors import UsageError


def blocks(module: nn.Module, classes: Sequence[str] | None = None) -> list[nn.Module]:
    """Modules to be treated one by one: of the named classes, else of those that transformers does not split,
    else the members of the outermost lists of modules. Raises UsageError where a named class has no module."""
    wanted = set(classes or ())
    for part in () if classes else module.modules():
        wanted.update(getattr(part, "_no_split_modules", None) or ())
    found = [part for part in module.modules() if type(part).__name__ in wanted and _has_parameters(part)]
    if classes and not found:
        raise UsageError(f"strategy.blocks: the model has no module of class {' or '.join(classes)}.")
    return found or list(_listed(module))


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child) > 1:
            yield from filter(_has_parameters, child)
        else:
            yield from _listed(child)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
