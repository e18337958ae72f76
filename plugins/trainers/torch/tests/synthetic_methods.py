"""Methods that each use a part of the contracts that supervised fine-tuning does not, and a callback that witnesses.

A plugin file for tests. Each micro-batch is written to the folder `dump`, so that another loop can go through the same.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from tk import CallbackSpec, MethodSpec, doc, hookimpl
from tk.callbacks import Base
from tk.contracts import Batch, Encoding, Example, Head, Layout, Pass, Role, Stat, Step, Term
from tk_tensor.collate import collate_tokens


@dataclass(frozen=True)
class Options:
    """Options of the synthetic methods."""

    dump: Annotated[str, doc("Folder for the batches.")] = ""
    critic: Annotated[str, doc("Checkpoint of the critic.")] = ""


class Synthetic:
    """What they share: examples of one sequence, and the dump."""

    scope = "row"
    terms: tuple[str, ...] = ()

    def __init__(self, options: Options, losses: Mapping[str, Any]) -> None:
        self.options = options
        self.seen: dict[int, Batch] = {}

    def roles(self) -> Sequence[Role]:
        return (Role("policy"),)

    def evaluate(self, examples: Any, session: Any) -> None:
        return None

    def source(self, data: Any, session: Any) -> Any:
        return data

    def encode(self, samples: Sequence[Any], template: Any, limit: Any) -> list[list[Example]]:
        encoded: list[Encoding] = template.encode(samples)
        return [
            [Example(len(e.ids), {"ids": e.ids, "weights": e.weights}, self.weights(e), s.origin)]
            for e, s in zip(encoded, samples, strict=True)
        ]

    def weights(self, encoding: Encoding) -> dict[str, float]:
        raise NotImplementedError

    def collate(self, rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        inputs, fields, samples, tokens = collate_tokens(rows, layout)
        weights = {name: sum(e.weights[name] for row in rows for e in row) for name in self.terms}
        return Batch(inputs, fields, weights, samples, tokens)

    def dump(self, batch: Batch) -> None:
        if id(batch) in self.seen or not self.options.dump:
            return
        self.seen[id(batch)] = batch
        tensors = {f"inputs.{k}": v for k, v in batch.inputs.items()} | {
            f"fields.{k}": v for k, v in batch.fields.items()
        }
        about = {"weights": batch.weights, "rows": batch.rows, "filler": batch.filler}
        name = f"rank{os.environ.get('RANK', '0')}-{len(self.seen):04d}.safetensors"
        Path(self.options.dump).mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.contiguous() for k, v in tensors.items()},
            Path(self.options.dump) / name,
            metadata={"about": json.dumps(about)},
        )


class TwoTerms(Synthetic):
    """A token term and a sequence term with normalisers of their own; two passes of one role."""

    terms = ("nll", "calm")

    def weights(self, encoding: Encoding) -> dict[str, float]:
        return {"nll": float(sum(encoding.weights)), "calm": 1.0}

    def passes(self, batch: Batch) -> Sequence[Pass]:
        self.dump(batch)
        return [Pass((Stat("logps"),)), Pass((Stat("entropy", temperature=2.0),), id="hot")]

    def loss(self, outputs: Any, batch: Batch, reduce: Any) -> Step:
        weights = batch.fields["token_weights"]
        nll = -(outputs["policy"]["logps"] * weights).sum()
        calm = F.softplus(reduce(outputs["hot"]["entropy"] * weights) / 10).sum()
        return Step({"nll": Term(nll), "calm": Term(calm, 0.3)}, {"entropy": (calm.detach(), batch.rows)})


class InBatch(Synthetic):
    """InfoNCE: every pair's other half is a negative of all others in the optimizer step; and a token term beside it."""

    scope = "window"
    terms = ("nce", "nll")

    def encode(self, samples: Sequence[Any], template: Any, limit: Any) -> list[list[Example]]:
        def halves(example: Example) -> Example:
            ids, weights = example.values["ids"], example.values["weights"]
            cut = len(ids) // 2
            values = {"a": ids[:cut], "b": ids[cut:], "wa": [1.0] * cut, "wb": weights[cut:]}
            return replace(
                example, values=values, weights={"nce": 1.0, "nll": float(sum(weights[cut + 1 :]) + cut - 1)}
            )

        return [[halves(e) for e in row] for row in super().encode(samples, template, limit)]

    def weights(self, encoding: Encoding) -> dict[str, float]:
        return {"nce": 1.0, "nll": 1.0}

    def collate(self, rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        split = []
        for (example,) in rows:
            for ids, weights in (("a", "wa"), ("b", "wb")):
                values = {"ids": example.values[ids], "weights": example.values[weights]}
                split.append([Example(len(values["ids"]), values, {})])
        inputs, fields, samples, tokens = collate_tokens(split, layout)
        weights = {name: sum(e.weights[name] for row in rows for e in row) for name in self.terms}
        return Batch(inputs, fields, weights, samples, tokens)

    def passes(self, batch: Batch) -> Sequence[Pass]:
        self.dump(batch)
        return [Pass((Stat("pooled"), Stat("logps")))]

    def loss(self, outputs: Any, batch: Batch, reduce: Any) -> Step:
        pairs = outputs["policy"]["pooled"].unflatten(0, (-1, 2))
        scores = pairs[:, 0] @ pairs[:, 1].T / 0.1
        nce = F.cross_entropy(scores, torch.arange(len(scores)), reduction="sum")
        nll = -reduce(outputs["policy"]["logps"] * batch.fields["token_weights"])
        assert len(nll) == batch.rows == 2 * len(scores)
        return Step({"nce": Term(nce), "nll": Term(torch.tanh(nll / 50).sum(), 0.5)})


class ActorCritic(Synthetic):
    """Two trained models: the critic's values weigh the policy's terms, and are trained towards a target."""

    terms = ("actor", "critic")

    def roles(self) -> Sequence[Role]:
        return (Role("policy"), Role("critic", head=Head("value"), lr_scale=2.0, checkpoint=self.options.critic))

    def weights(self, encoding: Encoding) -> dict[str, float]:
        return {"actor": float(sum(encoding.weights)), "critic": 1.0}

    def passes(self, batch: Batch) -> Sequence[Pass]:
        self.dump(batch)
        return [Pass((Stat("logps"),)), Pass((Stat("value"),), role="critic")]

    def loss(self, outputs: Any, batch: Batch, reduce: Any) -> Step:
        weights, values = batch.fields["token_weights"], outputs["critic"]["value"]
        error = values - (batch.fields["targets"] % 7) / 7
        actor = (outputs["policy"]["logps"] * weights * error.detach()).sum()
        return Step({"actor": Term(actor), "critic": Term(reduce(error**2 * weights).sum(), 0.5)})


class SharedCritic(ActorCritic):
    """The same with a value head on the policy's own module."""

    def roles(self) -> Sequence[Role]:
        return (Role("policy"), Role("critic", of="policy", head=Head("value"), lr_scale=2.0))


class Witness(Base):
    """Writes down how many processes there were and whether the parameters in this process are shards."""

    def __init__(self, options: Options) -> None:
        self.path = Path(options.dump)

    def on_step(self, control: Any, metrics: Mapping[str, float]) -> None:
        found = [o for o in gc.get_objects() if type(o) is DTensor and o.requires_grad and o.is_leaf]
        sharded = [p for p in found if _local(p).numel() < p.numel()]
        world = dist.get_world_size() if dist.is_initialized() else 1
        about = {"world": world, "parameters": len(found), "sharded": len(sharded)}
        (self.path / f"witness{os.environ.get('RANK', '0')}.json").write_text(json.dumps(about))


def _local(parameter: DTensor) -> Tensor:
    return parameter.to_local()


@hookimpl
def tk_methods() -> Iterable[MethodSpec]:
    methods = {"two-terms": TwoTerms, "in-batch": InBatch, "actor-critic": ActorCritic, "shared-critic": SharedCritic}
    for name, target in methods.items():
        yield MethodSpec(name=name, target=target, config=Options, summary="For tests.")


@hookimpl
def tk_callbacks() -> Iterable[CallbackSpec]:
    yield CallbackSpec(name="witness", target=Witness, config=Options, summary="For tests.")
