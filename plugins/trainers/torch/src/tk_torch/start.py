"""Where a run's first weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from tk.contracts import LoadedModel, Tuner
from tk.errors import TkError, UsageError
from tk_tensor.scored import MODULES
from tk_torch import files
from tk_torch.checkpoints import STATE, WEIGHTS, Checkpoints, Saved
from tk_torch.record import CHECKPOINTS, FINAL


@dataclass(frozen=True)
class Start:
    """Where weights come from: a checkpoint of a run, or a folder that a tuner has saved."""

    folder: Path
    checkpoint: bool

    def load_into(self, role: str, model: LoadedModel, tuner: Tuner) -> None:
        """Give the model of a role these weights. Raises TkError where they do not fit.

        A checkpoint holds what was trained: the rest is what its own run began with.
        """
        if not self.checkpoint:
            tuner.load(model, self.folder)
            return
        saved = Saved(self.folder)
        before = saved.state()["config"]["train"].get("start_from")
        if before:
            starting_point(before).load_into(role, model, tuner)
        prefix = f"{MODULES}.{role}."
        stored = {n.removeprefix(prefix): v for n, v in saved.weights().items() if n.startswith(prefix)}
        own = {name: p for name, p in model.module.named_parameters() if p.requires_grad}
        if {n: v.shape for n, v in stored.items()} != {n: p.shape for n, p in own.items()}:
            raise TkError(f"train.start_from: {self.folder} is of another model or tuner: its tensors do not fit.")
        with torch.no_grad():
            for name, value in stored.items():
                own[name].copy_(value)


def starting_point(name: str) -> Start:
    """What `train.start_from` means.

    name: a run, one of its checkpoints, or a folder that a tuner can load. Raises UsageError for anything else.
    """
    folder = Path(name)
    if not folder.is_dir():
        raise UsageError(f"train.start_from: {folder} is not a folder.")
    if (folder / STATE).is_file() and (folder / WEIGHTS).is_file():
        wrong = files.problem(folder)
        if wrong:
            raise TkError(f"train.start_from: {folder} is not whole: {wrong}.")
        return Start(folder, checkpoint=True)
    if (folder / FINAL).is_dir():
        return Start(folder / FINAL, checkpoint=False)
    if (folder / CHECKPOINTS).is_dir():
        newest = Checkpoints(folder / CHECKPOINTS, 1).newest()
        if newest is None:
            raise UsageError(f"train.start_from: {folder} has no whole checkpoint yet.")
        return Start(newest.path, checkpoint=True)
    return Start(folder, checkpoint=False)
