"""Checkpoints of a run: written whole or not at all, found by their manifests, and thinned out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tk.contracts import Checkpoint
from tk.errors import TkWarning, UsageError
from tk.files import TEMPORARY
from tk_torch import files

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint: `step-00000010/` with trained weights, optimizer, random streams by rank and `state.json`."""

    path: Path

    @property
    def step(self) -> int:
        return int(self.path.name.removeprefix("step-"))

    def state(self) -> dict[str, Any]:
        """Step, cursor, learning-rate factor, callbacks, evaluations, config."""
        found: dict[str, Any] = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        return found

    def checkpoint(self) -> Checkpoint:
        """What the result of a run tells of it."""
        return Checkpoint(self.path, self.step, self.state()["progress"]["evals"].get("flat", {}))

    def weights(self) -> dict[str, Tensor]:
        """Full trained tensors by parameter name of the scored model."""
        return load_file(self.path / WEIGHTS)

    def optimizer(self) -> dict[str, Tensor]:
        """State of the optimizer. Raises UsageError for a checkpoint of weights only."""
        return load_file(self.optimizer_file())

    def optimizer_file(self) -> Path:
        """Raises UsageError for a checkpoint of weights only."""
        if not (self.path / OPTIMIZER).is_file():
            raise UsageError(
                f"{self.path}: this checkpoint holds weights only (train.weights_only) and cannot be resumed; "
                "start a new run from it with train.start_from."
            )
        return self.path / OPTIMIZER

    def streams(self, rank: int) -> dict[str, Tensor]:
        """Random streams of a rank."""
        return load_file(self.path / _streams_of(rank))


class Checkpoints:
    """The folder `checkpoints/` of a run."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self._keep_last = keep_last

    def clean(self, step: int) -> None:
        """Delete what an interrupted write or deletion left, and later checkpoints than that of `step`, which are not whole."""
        for path in self.all():
            if Saved(path).step > step:
                files.remove(path)
        for path in self.folder.glob(f"*{TEMPORARY}"):
            files.discard(path)
        for path in self.folder.glob(f".*{TEMPORARY}"):
            files.discard(path)

    def all(self) -> list[Path]:
        """Checkpoints, oldest first, whole or not."""
        return sorted(p for p in self.folder.glob("step-*") if p.is_dir() and p.name.removeprefix("step-").isdigit())

    def newest(self) -> Saved | None:
        """The newest whole checkpoint. Warns of newer ones that are not, with what is wrong with them."""
        for path in reversed(self.all()):
            wrong = files.problem(path)
            if not wrong:
                return Saved(path)
            warnings.warn(
                f"{path}: this checkpoint is not whole: {wrong}. Using the one before.", TkWarning, stacklevel=2
            )
        return None

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def write(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor] | None,
        streams: Sequence[Mapping[str, Tensor]],
        state: Mapping[str, Any],
    ) -> Path:
        """Write a checkpoint (rank 0). `optimizer` None: weights only. Raises TkError where the disk refuses."""

        def fill(folder: Path) -> None:
            _save(weights, folder / WEIGHTS)
            if optimizer is not None:
                _save(optimizer, folder / OPTIMIZER)
            for rank, tensors in enumerate(streams):
                _save(tensors, folder / _streams_of(rank))
            (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")

        path = self.path(step)
        files.write_folder(path, fill)
        return path

    def retain(self, kept: Collection[str]) -> None:
        """Delete all but the newest ones and those named in `kept` (folder names)."""
        for path in self.all()[: -self._keep_last]:
            if path.name not in kept:
                files.remove(path)


def _streams_of(rank: int) -> str:
    return f"random-{rank:05d}.safetensors"


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
