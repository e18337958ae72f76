"""The command `tk lengths`: the length penalty that a config chooses, applied to a file of answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from acme_tk_length_penalties.contract import LengthPenaltySpec
from tk.api import load_config
from tk.errors import DataError, UsageError


def lengths(
    answers: Annotated[Path, typer.Argument(help="What `tk infer --to` wrote.")],
    penalty: Annotated[str | None, typer.Option("--penalty", help="See `tk length-penalties list`.")] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="A YAML file with a section `penalty`.")] = None,
) -> None:
    """Apply the length penalty of the config to each answer; answers to one prompt are one group."""
    section = {"penalty": {"name": penalty}} if penalty else {}
    chosen = load_config(config, **section).chosen["penalty"]
    groups = _groups(answers)
    spec = chosen.component.spec
    if isinstance(spec, LengthPenaltySpec) and spec.needs_group and all(len(group) < 2 for group in groups.values()):
        raise UsageError(f"{answers}: {chosen.name} compares answers to one prompt: tk infer --sampling.n 2 or more.")
    apply = chosen.build()
    for origin, group in groups.items():
        for tokens, value in zip(group, apply(group), strict=True):
            print(f"{value:+.4f}  {tokens:6d} tokens  {origin}")


def _groups(path: Path) -> dict[str, list[int]]:
    """Lengths in tokens of the answers to each row, in order."""
    found: dict[str, list[int]] = {}
    for origin, tokens in _rows(path):
        found.setdefault(origin, []).append(tokens)
    if not found:
        raise DataError(f"{path}: it holds no answers.")
    return found


def _rows(path: Path) -> Iterator[tuple[str, int]]:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; write one with `tk infer --to {path}`.")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            yield str(row["origin"]), int(row["tokens"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: no answer of tk infer ({error!r}).") from error
