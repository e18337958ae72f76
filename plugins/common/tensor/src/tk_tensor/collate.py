"""Rows of examples as tensors: padded or packed, with the flat positions whose hidden state predicts a trained token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tk.contracts import Batch, Example, Layout, Medium, Reduce
from tk_tensor.tokens import media_inputs, positions_of

Tensors = dict[str, Any]


def collate_tokens(rows: Sequence[Sequence[Example]], layout: Layout) -> tuple[Tensors, Tensors, int, int]:
    """(inputs, fields, samples R, tokens that are not padding).

    Examples hold `values["ids"]` and `values["weights"]`, arrays of one length: a token's weight is that of predicting
    it, from the position before it in the same sample; the first token of a sample is never predicted.

    Padded, a row holds one example: `attention_mask`, and `position_ids` from the first token on. Packed, it may hold
    several: no `attention_mask`, and `position_ids` that start again with each, by which attention keeps them apart
    (the padding at the end is a sample of its own that nothing reads). Media are inputs in the order of the rows.

    fields: `select`, `targets`, `token_weights`, `rows` [N] (see tk.contracts.Batch; N ≥ 1, with a weight of 0 where
    nothing is trained); `segments` [B·T], the sample of each token (-1: padding); [R] of each sample: `lengths`, its
    tokens; `lasts`, the flat position of its last one; `ends`, that of the last which is not the padding token.
    """
    if not rows or not all(rows):
        raise ValueError("a batch has at least one row, and a row at least one example")
    if not layout.packing and any(len(row) > 1 for row in rows):
        raise ValueError("a row holds several examples, and the layout does not pack")
    width = max(sum(e.length for e in row) for row in rows)
    width = -(-width // layout.multiple) * layout.multiple
    ids = np.full((len(rows), width), layout.pad_id, dtype=np.int64)
    placed: list[tuple[int, slice, np.ndarray]] = []
    media: list[Medium] = []
    segments = np.full(ids.shape, -1, dtype=np.int64)
    weights = np.zeros(ids.shape, dtype=np.float32)
    lengths: list[int] = []
    ends: list[int] = []
    lasts: list[int] = []
    for b, row in enumerate(rows):
        used = sum(e.length for e in row)
        at = width - used if layout.side == "left" and not layout.packing else 0
        for example in row:
            span = slice(at, at := at + example.length)
            ids[b, span] = example.values["ids"]
            weights[b, span] = example.values["weights"]
            weights[b, span.start] = 0.0
            placed.append((b, span, positions_of(ids[b, span], example.media, layout)))
            media += example.media
            segments[b, span] = len(lengths)
            lengths.append(example.length)
            lasts.append(b * width + at - 1)
            ends.append(b * width + span.start + last_read(example.values["ids"], layout.pad_id))
        if layout.packing:
            placed.append((b, slice(at, width), np.arange(width - at)))
    inputs = {"input_ids": torch.from_numpy(ids), "position_ids": torch.from_numpy(all_positions(ids.shape, placed))}
    inputs |= media_inputs(media, layout)
    if not layout.packing:
        inputs["attention_mask"] = torch.from_numpy((segments >= 0).astype(np.int64))
    at = np.flatnonzero(weights)
    columns = (at - 1, at, weights.ravel()[at], segments.ravel()[at])
    fields = selected(ids.ravel(), *columns, first=int(np.argmax(segments >= 0)))
    fields["segments"] = torch.from_numpy(segments.ravel())
    fields |= {"lengths": torch.tensor(lengths), "ends": torch.tensor(ends), "lasts": torch.tensor(lasts)}
    return inputs, fields, len(lengths), sum(lengths)


def all_positions(shape: tuple[int, int], placed: Sequence[tuple[int, slice, np.ndarray]]) -> np.ndarray:
    """[B, T] or [axes, B, T] positions out of (row, span, positions of the span); 0 elsewhere."""
    axes = max((len(part) for _, _, part in placed if part.ndim > 1), default=0)
    found = np.zeros((axes, *shape) if axes else shape, dtype=np.int64)
    for row, span, part in placed:
        found[..., row, span] = part
    return found


def selected(
    ids: np.ndarray, before: np.ndarray, predicted: np.ndarray, weights: np.ndarray, samples: np.ndarray, *, first: int
) -> Tensors:
    """The fields of N trained tokens: flat positions that predict them, the tokens, their weights and samples.

    first: a position that is not padding, taken with weight 0 where nothing is trained, so that N ≥ 1.
    """
    if not len(predicted):
        before = predicted = np.array([first])
        weights, samples = np.zeros(1, dtype=np.float32), np.zeros(1, dtype=np.int64)
    return {
        "select": torch.from_numpy(before),
        "targets": torch.from_numpy(ids[predicted]),
        "token_weights": torch.from_numpy(weights),
        "rows": torch.from_numpy(samples),
    }


def last_read(ids: np.ndarray, pad_id: int) -> int:
    """Index of the token whose state scores a sequence: the last that is no padding, as transformers' classifiers take
    it; sequences may end with the end token that also pads."""
    kept = np.flatnonzero(np.asarray(ids) != pad_id)
    return int(kept[-1]) if len(kept) else len(ids) - 1


def reduce_for(batch: Batch) -> Reduce:
    """[N] values of the batch's selected tokens to [R] sums by sample, differentiable."""
    rows, samples = batch.fields["rows"], batch.rows

    def reduce(values: Tensor) -> Tensor:
        return values.new_zeros(samples).index_add(0, rows.to(values.device), values)

    return reduce
