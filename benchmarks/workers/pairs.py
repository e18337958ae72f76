"""Writes the batches of a `tk` run on preference pairs as token ids: pairs.py CONFIG TO."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tk.contracts import World
from tk.setup import given_from
from tk.setup import plan as plan_of
from tk_torch.assemble import assemble


def main(config: str, to: str) -> None:
    plan = plan_of(given_from(config, {}))
    loader = assemble(plan, World(0, 1, "cpu"), device="meta").loader
    found = []
    for _, epoch, window in loader.places():
        examples = [loader.examples[i] for row in loader.members(epoch, window) for i in row]
        sides = ("prompt", "chosen", "rejected")
        found.append([{f"{side}_ids": example.values[side].tolist() for side in sides} for example in examples])
    Path(to).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
