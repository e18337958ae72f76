"""Writes the batches of a `tk` run on preference pairs as token ids: pairs.py CONFIG TO."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tk.contracts import World
from tk.setup import given_from
from tk.setup import plan as plan_of
from tk_tensor.branches import Tree
from tk_tensor.preferences import tree_of
from tk_torch.assemble import assemble


def main(config: str, to: str) -> None:
    plan = plan_of(given_from(config, {}))
    loader = assemble(plan, World(0, 1, "cpu"), device="meta").loader
    found = []
    for _, epoch, window in loader.places():
        examples = [loader.examples[i] for row in loader.members(epoch, window) for i in row]
        found.append([_sides(tree_of(example)) for example in examples])
    Path(to).write_text(json.dumps(found), encoding="utf-8")


def _sides(tree: Tree) -> dict[str, list[int]]:
    sides = zip(("prompt", "chosen", "rejected"), (tree.trunk, *tree.branches), strict=True)
    return {f"{side}_ids": tokens.ids.tolist() for side, tokens in sides}


if __name__ == "__main__":
    main(*sys.argv[1:])
