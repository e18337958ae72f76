"""A bare training loop on given batches: bare_loop.py supervised|full CHECKPOINT BATCHES."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bare import full_loss, lora_model, optimizer_of, padded, step, supervised_loss
from gate import Gate

LOSSES = {"supervised": supervised_loss, "full": full_loss}


def main(kind: str, checkpoint: str, batches: str) -> None:
    loss_of = LOSSES[kind]
    model = lora_model(checkpoint)
    optimizer = optimizer_of(model)
    gate = Gate()
    for rows in json.loads(Path(batches).read_text(encoding="utf-8")):
        gate.loss(step(model, optimizer, loss_of(model, padded(rows, 0))))
        gate.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
