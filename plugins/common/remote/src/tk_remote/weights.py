"""Weights on their way to an engine elsewhere: safetensors files in a folder that both can read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tk.errors import TkError
from tk.files import explained

SHARD = 2**31
"""Bytes of a file, about."""
INDEX = "weights.json"
"""What the files are and which tensors each holds: written last."""


def written(weights: Iterable[tuple[str, Tensor]], folder: Path) -> Path:
    """The tensors in files of a new folder, as they come: never more than one file's in memory. A folder is whole or not there."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with explained(folder):
            _write(weights, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _write(weights: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    index: dict[str, list[str]] = {}
    part: dict[str, Tensor] = {}
    size = 0
    folder.mkdir(parents=True)
    for name, tensor in weights:
        if size and size + tensor.nbytes > SHARD:
            index[_saved(part, folder, len(index))] = list(part)
            part, size = {}, 0
        part[name] = tensor.detach().cpu().contiguous().clone()  # tied tensors share memory, which is not written
        size += tensor.nbytes
    if part:
        index[_saved(part, folder, len(index))] = list(part)
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """What `written` wrote. Raises TkError where it is not whole."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        for file, names in index.items():
            with safe_open(folder / file, "pt") as opened:
                for name in names:
                    yield name, opened.get_tensor(name)
    except (OSError, ValueError, SafetensorError) as error:
        raise TkError(f"{folder}: there are no whole weights: {error}") from error


def _saved(part: dict[str, Tensor], folder: Path, number: int) -> str:
    name = f"weights-{number:05}.safetensors"
    save_file(part, folder / name)
    return name
