"""Statistics that are known before a batch is computed: values of the examples, collated into `fields["given"]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tk.contracts import Batch, Example, Layout, Rows
from tk.errors import TkError

Collate = Callable[[Sequence[Sequence[Example]], Layout], Batch]

PREFIX = "given"
OF_SAMPLES = ("score", "pooled")
"""Statistics with a value a sample; the others have one a selected position."""


def value_name(key: str, stat: str) -> str:
    """Under which an example has the statistic `stat` of the pass `key`."""
    return f"{PREFIX}/{key}/{stat}"


def with_given(collate: Collate) -> Collate:
    """A method's `collate`, with the statistics that the examples have, end to end as their samples stand in the batch."""

    def collated(rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        batch = collate(rows, layout)
        examples = [example for row in rows for example in row]
        given: dict[str, dict[str, Tensor]] = {}
        for name in examples[0].values:
            if name.startswith(f"{PREFIX}/"):
                _, key, stat = name.split("/")
                values = torch.from_numpy(np.concatenate([example.values[name] for example in examples]))
                owners = torch.arange(batch.rows) if stat in OF_SAMPLES else batch.fields["rows"]
                if len(values) != len(owners) or bool((owners.diff() < 0).any()):
                    raise TkError(
                        f"{examples[0].origin}: {len(values)} precomputed values of {key} ({stat}) do not fit a batch that "
                        f"has {len(owners)} of them, sample by sample."
                    )
                given.setdefault(key, {})[stat] = values
        return replace(batch, fields={**batch.fields, PREFIX: given}) if given else batch

    return collated


def divided(outputs: Mapping[str, Rows], batch: Batch, samples: Sequence[int]) -> list[dict[str, dict[str, Tensor]]]:
    """A batch's statistics by example. samples: how many each of its examples has, in order."""
    owners = torch.arange(len(samples)).repeat_interleave(torch.tensor(samples))
    found: list[dict[str, dict[str, Tensor]]] = [{key: {} for key in outputs} for _ in samples]
    for key, stats in outputs.items():
        for name, value in stats.items():
            own = (owners if name in OF_SAMPLES else owners[batch.fields["rows"].cpu()]).to(value.device)
            for number, example in enumerate(found):
                example[key][name] = value[own == number]
    return found
