"""What precomputed roles say of each example: computed before the first step, and kept with the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tk.contracts import Session, Strategy
from tk.errors import TkError
from tk_data.evaluate import eval_batches
from tk_data.examples import ExampleSet
from tk_tensor.given import divided, value_name
from tk_torch import files
from tk_torch.assemble import Parts
from tk_torch.evaluate import Told, alone, on_cpu
from tk_torch.ranks import on_rank_0
from tk_torch.record import PRECOMPUTED
from tk_torch.resume import fingerprint

COUNTS, ROWS = "counts", "rows"


def compute(parts: Parts, session: Session, strategy: Strategy, folder: Path, batch_size: int, told: Told) -> None:
    """Ask the precomputed roles about every example, write it to the run's folder, and let their models go."""
    roles = [role.name for role in parts.roles if role.precomputed]
    if not roles:
        return
    found = {
        name: _computed(parts, examples, roles, session, strategy, batch_size, told)
        for name, examples in _sets(parts).items()
    }

    def fill(into: Path) -> None:
        for name, examples in _sets(parts).items():
            save_file(found[name], into / f"{name}.safetensors", metadata={ROWS: fingerprint(parts, name, examples)})

    on_rank_0(strategy, session.world, lambda: files.write_folder(folder / PRECOMPUTED, fill))
    for name, examples in _sets(parts).items():
        _give(examples, found[name])
    for role in roles:
        parts.scored.leave(role)
        parts.models.pop(role, None)


def read(parts: Parts, folder: Path) -> None:
    """Take what a run has kept. Raises TkError where it is not whole."""
    if not any(role.precomputed for role in parts.method.roles()):
        return
    wrong = files.problem(folder / PRECOMPUTED)
    if wrong:
        raise TkError(f"--resume: {folder / PRECOMPUTED} is not whole: {wrong}. Begin the run anew.")
    for name, examples in _sets(parts).items():
        path = folder / PRECOMPUTED / f"{name}.safetensors"
        with safe_open(path, "pt") if path.exists() else nullcontext() as stored:
            if stored is None or stored.metadata()[ROWS] != fingerprint(parts, name, examples):
                raise TkError(f"--resume: {path} is of other rows than the {name} data holds now: put the data back.")
            _give(examples, {key: stored.get_tensor(key) for key in stored.keys()})  # noqa: SIM118


def _sets(parts: Parts) -> dict[str, ExampleSet]:
    return {name: s for name, s in (("train", parts.data.train), ("eval", parts.data.eval)) if len(s)}


def _computed(
    parts: Parts,
    examples: ExampleSet,
    roles: Sequence[str],
    session: Session,
    strategy: Strategy,
    batch_size: int,
    told: Told,
) -> dict[str, Tensor]:
    """For each statistic the values of all examples end to end, in their order, and how many each has; on every rank."""
    world, collate = session.world, parts.method.collate
    members: list[int] = []
    own: dict[str, list[Tensor]] = {}
    done, what = 0, ", ".join(roles)
    for batch, indices in eval_batches(examples, collate, parts.layout, batch_size, world, parts.loader.workers):
        told(what, done, len(examples))
        done = min(done + batch_size * world.size, len(examples))
        (outputs,) = session.score([batch], [p for p in parts.method.passes(batch) if p.role in roles])
        members += indices
        samples = [alone(collate, examples[i], parts.layout).rows for i in indices]
        parted = divided(on_cpu(outputs), batch, samples) if indices else []
        for key, stats in outputs.items():
            for stat, value in stats.items():
                if value.ndim != 1:
                    raise TkError(f"{key}: {stat} has several numbers a place, and cannot be precomputed.")
                own.setdefault(value_name(key, stat), []).extend(part[key][stat] for part in parted)
    told(what, done, done)

    def gathered(values: Tensor) -> Tensor:
        return torch.cat(strategy.gather(values.to(world.device))).cpu()

    order = gathered(torch.tensor(members, dtype=torch.int64)).argsort()
    found: dict[str, Tensor] = {}
    for name, values in own.items():
        counts = gathered(torch.tensor([len(value) for value in values], dtype=torch.int64))
        pieces = gathered(torch.cat([torch.zeros(0), *values])).split(counts.tolist())
        found[name] = torch.cat([pieces[i] for i in order.tolist()])
        found[f"{name}/{COUNTS}"] = counts[order]
    return found


def _give(examples: ExampleSet, stored: Mapping[str, Tensor]) -> None:
    for name in [name for name in stored if not name.endswith(f"/{COUNTS}")]:
        pieces = stored[name].split(stored[f"{name}/{COUNTS}"].tolist())
        examples.add_value(name, [piece.numpy() for piece in pieces])
