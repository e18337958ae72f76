"""Sequences that begin alike: their beginning computed once, in one row, under a mask that keeps the endings apart.

A row holds `trunk ‖ branch 1 ‖ branch 2 …`; each branch goes on from the trunk's last position and sees the trunk and
itself. What each token computes is what it computes in a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tk.contracts import Example, Layout, Medium
from tk_tensor.collate import Tensors, all_positions, collate_tokens, last_read, selected
from tk_tensor.tokens import Tokens, media_inputs, positions_of

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Tree:
    """Sequences with one beginning. trunk: never trained. branches: their endings."""

    trunk: Tokens
    branches: Sequence[Tokens]

    @property
    def length(self) -> int:
        """Tokens in a row where the trunk stands once."""
        return len(self.trunk) + sum(map(len, self.branches))

    def sequences(self) -> Iterator[Example]:
        """Each ending with the trunk before it."""
        trunk = Tokens.untrained(self.trunk.ids, self.trunk.media)
        return ((trunk + branch).example({}, "") for branch in self.branches)


def collate_trees(rows: Sequence[Sequence[Tree]], layout: Layout) -> tuple[Tensors, Tensors, int, int]:
    """(inputs, fields, samples R, tokens), as `collate_tokens`: a sample is a branch with its trunk, in order.

    With `layout.shared_prefix`, where it is worth it (`layout.shared_from`): inputs have `trees` and `branches` [B, T] instead of an attention
    mask (see `mask_of`), and fields no `segments`, since a trunk's tokens belong to several samples.
    """
    if layout.shared_prefix and worth_sharing([tree for row in rows for tree in row], layout.shared_from):
        return lay_out(rows, layout)
    if layout.packing:
        return collate_tokens([[e for tree in row for e in tree.sequences()] for row in rows], layout)
    return collate_tokens([[e] for row in rows for tree in row for e in tree.sequences()], layout)


def worth_sharing(trees: Sequence[Tree], shared_from: float) -> bool:
    """Whether the trunks hold so many times the tokens of the branches."""
    trunks = sum(len(tree.trunk) for tree in trees)
    return trunks >= shared_from * (sum(tree.length for tree in trees) - trunks)


def lay_out(rows: Sequence[Sequence[Tree]], layout: Layout) -> tuple[Tensors, Tensors, int, int]:
    """`collate_trees` with shared trunks: several trees a row where the layout packs."""
    width = max(sum(tree.length for tree in row) for row in rows)
    width = -(-width // layout.multiple) * layout.multiple
    ids = np.full((len(rows), width), layout.pad_id, dtype=np.int64)
    branches = np.zeros_like(ids)
    trees = np.full_like(ids, -1)
    placed: list[tuple[int, slice, np.ndarray]] = []
    media: list[Medium] = []
    before: list[np.ndarray] = []
    predicted: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    samples: list[np.ndarray] = []
    lengths: list[int] = []
    ends: list[int] = []
    for b, row in enumerate(rows):
        used = sum(tree.length for tree in row)
        at = width - used if layout.side == "left" and not layout.packing else 0
        for number, tree in enumerate(row):
            start, trunk = at, len(tree.trunk)
            trees[b, start : start + tree.length] = number
            ids[b, at : at + trunk] = tree.trunk.ids
            placed.append((b, slice(at, at + trunk), positions_of(tree.trunk.ids, tree.trunk.media, layout)))
            media += tree.trunk.media
            at += trunk
            for branch, tokens in enumerate(tree.branches, 1):
                span, token_weights = np.arange(at, at + len(tokens)), tokens.weights
                whole = tree.trunk + tokens
                ids[b, span], branches[b, span] = tokens.ids, branch
                placed.append(
                    (b, slice(at, at + len(tokens)), positions_of(whole.ids, whole.media, layout)[..., trunk:])
                )
                media += tokens.media
                predictors = np.concatenate([[start + trunk - 1], span[:-1]])  # the first token follows the trunk
                kept = np.flatnonzero(token_weights)
                if not trunk:
                    kept = kept[kept > 0]  # nothing stands before it
                before.append(b * width + predictors[kept])
                predicted.append(b * width + span[kept])
                weights.append(token_weights[kept])
                samples.append(np.full(len(kept), len(lengths)))
                at += len(tokens)
                lengths.append(trunk + len(tokens))
                ends.append(b * width + at - len(tokens) + last_read(tokens.ids, layout.pad_id))
    inputs = {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(all_positions(ids.shape, placed)),
        "trees": torch.from_numpy(trees),
        "branches": torch.from_numpy(branches),
        **media_inputs(media, layout),
    }
    columns = (np.concatenate(column) for column in (before, predicted, weights, samples))
    fields = selected(ids.ravel(), *columns, first=int(np.argmax(trees >= 0)))
    fields |= {"lengths": torch.tensor(lengths), "ends": torch.tensor(ends)}
    return inputs, fields, len(lengths), sum(tree.length for row in rows for tree in row)


@dataclass(frozen=True)
class Masks:
    """The form in which a model takes a mask of its own: one [B, 1, T, T], or one by each kind of its layers.

    windows: kind of layer ("" : the model takes one mask) -> tokens that a position sees, None: all before it.
    additive: 0 and the lowest number instead of booleans (eager attention).
    """

    windows: Mapping[str, int | None]
    additive: bool = False

    def __call__(self, inputs: Mapping[str, Any], dtype: torch.dtype) -> Any:
        """The model's `attention_mask` for rows of trees."""
        return self.of(lambda window: mask_of(inputs, window), dtype)

    def of(self, seen: Callable[[int | None], Tensor], dtype: torch.dtype) -> Any:
        """The model's `attention_mask` out of [B, 1, T, S] booleans: what each token sees within a window."""
        made = {kind: seen(window) for kind, window in self.windows.items()}
        if self.additive:
            lowest = torch.finfo(dtype).min
            made = {kind: torch.zeros_like(m, dtype=dtype).masked_fill(~m, lowest) for kind, m in made.items()}
        return made.get("", made)


def mask_of(inputs: Mapping[str, Any], window: int | None = None) -> Tensor:
    """[B, 1, T, T] booleans: a token sees what stands before it in its tree, in the trunk or in its own branch.

    window: how many positions back it sees, itself included.
    """
    trees, branches, positions = inputs["trees"], inputs["branches"], inputs["position_ids"]
    positions = positions[0] if positions.ndim == 3 else positions
    order = torch.arange(trees.shape[1], device=trees.device)
    seen = (order[:, None] >= order) & (trees[:, :, None] == trees[:, None, :])
    seen &= (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
    if window is not None:
        seen &= positions[:, :, None] - positions[:, None, :] < window
    return seen[:, None]


def masks_for(module: nn.Module) -> Masks | None:
    """How a transformers model takes masks, by its config; None where some of its layers take none."""
    inner = module.get_base_model() if hasattr(module, "get_base_model") else module
    config: Any = getattr(inner, "config", None)
    if config is None:
        return None
    implementation = str(getattr(config, "_attn_implementation", ""))
    if implementation not in ("sdpa", "eager"):
        return None
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    kinds = set(getattr(text, "layer_types", None) or ())
    if kinds - {FULL, SLIDING}:
        return None
    additive = implementation == "eager"
    if SLIDING in kinds:
        return Masks({FULL: None, SLIDING: window}, additive)
    return Masks({"": None if kinds else window}, additive)
