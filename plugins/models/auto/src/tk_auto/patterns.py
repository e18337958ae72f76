"""Parameters by group, name, glob or regular expression."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import translate

from torch import nn

from tk.errors import UsageError, nearest

Groups = Mapping[str, tuple[str, ...]]


def names_of(module: nn.Module) -> dict[nn.Parameter, tuple[str, ...]]:
    """Every parameter with all its names (tied weights have several)."""
    found: dict[nn.Parameter, tuple[str, ...]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        found[parameter] = (*found.get(parameter, ()), name)
    return found


def matching(module: nn.Module, pattern: str, groups: Groups, option: str) -> set[nn.Parameter]:
    """The parameters that a pattern stands for. Raises UsageError, with the nearest name, where there is none."""
    expression = _compiled(pattern, groups, option)
    names = names_of(module)
    found = {p for p, known in names.items() if any(expression.search(name) for name in known)}
    if found:
        return found
    parts = {part for known in names.values() for name in known for part in name.split(".") if not part.isdigit()}
    hint = nearest(pattern.removeprefix("re:").rpartition(".")[2], [*parts, *groups])
    raise UsageError(f"{option}: {pattern!r} matches no module or parameter of the model.{hint}")


def _compiled(pattern: str, groups: Groups, option: str) -> re.Pattern[str]:
    if pattern.startswith("re:"):
        try:
            return re.compile(pattern[3:])
        except re.error as error:
            raise UsageError(f"{option}: {pattern!r} is not a regular expression: {error}") from error
    if pattern in groups:
        prefixes = "|".join(re.escape(prefix) for prefix in groups[pattern] if prefix)
        whole = "" in groups[pattern]
        return re.compile("" if whole else rf"(?:^|\.)(?:{prefixes})(?:\.|$)")
    glob = translate(pattern).removesuffix(r"\Z").removesuffix(r"\z")  # the spelling of the end differs by version
    return re.compile(rf"(?:^|\.){glob}(?:\.|$)")
