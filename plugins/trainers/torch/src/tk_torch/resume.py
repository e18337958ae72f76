"""Where a run stands, and whether a checkpoint belongs to the config at hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tk.compose import Plan
from tk.contracts import Checkpoint, Strategy, Window, World
from tk.errors import TkError, UsageError
from tk_data.examples import ExampleSet
from tk_torch import files, seeds
from tk_torch.assemble import Parts
from tk_torch.checkpoints import Checkpoints, Saved
from tk_torch.ranks import on_rank_0
from tk_torch.record import FINAL

FREE = ("output", "report", "trackers", "plugins", "launcher", "evaluators")
FREE_FIELDS = (
    "train.resume",
    "train.log_every",
    "train.keep_last",
    "train.save_every",
    "train.weights_only",
    "eval.every",
    "eval.at_start",
    "eval.batch_size",
    "eval.generate",
    "eval.max_new_tokens",
    "eval.sources",
    "strategy",
    "data.workers",
    "rewards.*.time_limit",
)
"""What may differ when a run goes on, because the weights do not depend on it (`strategy`: how they are spread)."""


@dataclass
class Progress:
    """Where a run stands after a whole step; saved in each checkpoint.

    cursor: of the source after the window that was consumed last. first, evals: figures by set of examples.
    samples: answers before training. skipped: steps in a row that changed nothing; dropped: all of them.
    """

    step: int = 0
    epoch: float = 0.0
    cursor: Mapping[str, Any] | None = None
    seconds: float = 0.0
    tokens: int = 0
    first: Mapping[str, Any] = field(default_factory=dict)
    evals: Mapping[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    skipped: int = 0
    dropped: int = 0

    def advance(self, window: Window, tokens: int, *, skipped: bool) -> None:
        """A window was consumed; `skipped`: its gradients were not finite and the weights stayed."""
        self.step += 1
        self.epoch, self.cursor = window.epoch, window.cursor
        self.tokens += tokens
        self.skipped = self.skipped + 1 if skipped else 0
        self.dropped += skipped

    def checkpoint(self, path: Path) -> Checkpoint:
        """The checkpoint of this step, as callbacks are told of it."""
        return Checkpoint(path, self.step, self.evals.get("flat", {}))


def save(
    checkpoints: Checkpoints,
    progress: Progress,
    plan: Plan,
    rows: str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    strategy: Strategy,
    world: World,
    callbacks: Mapping[str, Any],
) -> Path:
    """Gather what resume needs from every rank; rank 0 writes it. Raises TkError on every rank where it cannot."""
    weights = dict(strategy.weights(module, trainable=True))
    state = None if plan.config.train.weights_only else strategy.optimizer_state(module, optimizer)
    streams = _every_stream(strategy, world)

    def write() -> str:
        about = {
            "progress": asdict(progress),
            "callbacks": callbacks,
            "config": plan.published,
            "rows": rows,
            "world": world.size,
        }
        return str(checkpoints.write(progress.step, weights, state, streams, json.loads(files.json_text(about))))

    return Path(on_rank_0(strategy, world, write))


def newest(checkpoints: Checkpoints, plan: Plan, strategy: Strategy, world: World) -> Saved | None:
    """The checkpoint to go on from, where a run is to go on (train.resume): the newest whole one, of this config.

    Raises UsageError on every rank where there was one, or it is of another config; TkError where a rank does not see it.
    """
    folder = checkpoints.folder.parent

    def find() -> str:
        saved = checkpoints.newest() if plan.config.train.resume else None
        if plan.config.train.resume and not saved and ((folder / FINAL).exists() or checkpoints.all()):
            raise UsageError(
                f"--resume: {folder} has been trained, and there is no whole checkpoint to go on from: train on "
                "from its weights in another folder (--train.start-from), or delete it first (--output.overwrite)."
            )
        if saved:
            saved.optimizer_file()
            check_config(saved, plan)
        return str(saved.path) if saved else ""

    path = on_rank_0(strategy, world, find)
    if path and not Path(path).is_dir():
        raise TkError(f"rank {world.rank} does not see {path}: the output folder must be shared.")
    return Saved(Path(path)) if path else None


def restore(
    saved: Saved,
    rows: str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    strategy: Strategy,
    world: World,
    seed: int,
) -> dict[str, Any]:
    """Put a checkpoint back on this rank; returns its `state.json`.

    On another number of processes than before, dropout goes on with streams of its own. Raises TkError where the rows to
    train on are others.
    """
    state = saved.state()
    if state["rows"] != rows:
        raise TkError(
            f"--resume: {saved.path} was trained on other rows than the data holds now, and would go on in the middle of "
            "them: put the data back, or begin a new run from its weights with train.start_from."
        )
    strategy.restore(module, optimizer, saved.weights(), saved.optimizer())
    if state["world"] == world.size:
        seeds.set_full_state(saved.streams(world.rank), world.device)
    else:
        seeds.seed_everything(seed, world.rank + 1, saved.step)
    return state


def check_config(saved: Saved, plan: Plan) -> None:
    """Raises UsageError naming the keys that differ from the interrupted run's and would change its course: not where
    something runs that runs elsewhere."""
    where = {f"{path}.{name}" for path, chosen in plan.parts() for name in chosen.component.spec.elsewhere}
    was, now = (_flat(json.loads(files.json_text(tree))) for tree in (saved.state()["config"], plan.published))
    differing = [
        f"{key} (was {was.get(key)!r}, is {now.get(key)!r})"
        for key in sorted({*was, *now})
        if was.get(key) != now.get(key) and key not in where and not _free(key)
    ]
    if differing:
        raise UsageError(
            f"--resume: {saved.path} was trained with another config: {'; '.join(differing)}. Give the same values, or "
            "begin a new run from its weights with train.start_from."
        )


SPLITS = {"train": ("train",), "eval": ("eval", "held out")}
"""Which parts of the report each set of examples is of."""


def fingerprint(parts: Parts, name: str, examples: ExampleSet) -> str:
    """Of the content of the sources, of which rows they gave, and how long each is."""
    sources = [source.fingerprint for source in parts.data.report.of(*SPLITS[name]).sources]
    rows = [examples.origin(i) for i in range(len(examples))]
    return hashlib.sha256(json.dumps([sources, rows, examples.lengths.tolist()]).encode()).hexdigest()


def _every_stream(strategy: Strategy, world: World) -> list[dict[str, torch.Tensor]]:
    own = seeds.full_state(world.device)
    gathered = {name: strategy.gather(value) for name, value in sorted(own.items())}
    return [{name: parts[rank] for name, parts in gathered.items()} for rank in range(world.size)]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        elif value not in ({}, None):
            found[f"{prefix}{key}"] = value
    return found


def _free(key: str) -> bool:
    return key.split(".")[0] in FREE or any(fnmatchcase(key, n) or key.startswith(f"{n}.") for n in FREE_FIELDS)
