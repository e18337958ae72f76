"""Writes the batches of a `tk` run as token ids and labels: what the other programs train on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tk.contracts import Batch, World
from tk.setup import given_from
from tk.setup import plan as plan_of
from tk_torch.assemble import assemble


def rows(batch: Batch) -> list[dict[str, Any]]:
    """Each row without its padding; a label is -100 where no loss is computed."""
    ids, kept = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    labels = ids.new_full(ids.shape, -100).flatten()
    labels[batch.fields["select"] + 1] = batch.fields["targets"]
    labels = labels.view_as(ids)
    return [{"input_ids": i[k].tolist(), "labels": t[k].tolist()} for i, t, k in zip(ids, labels, kept, strict=True)]


def main(config: str, to: str) -> None:
    plan = plan_of(given_from(config, {}))
    parts = assemble(plan, World(0, 1, "cpu"), device="meta")
    found = [rows(batch) for window in parts.loader.windows() for batch in window.batches]
    Path(to).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
