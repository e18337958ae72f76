"""Queries and passages to vectors of length 1, made of the last hidden states."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tk.contracts import Batch, Example, Head, Layout, Limit, Loss, Reduce, Role, Rows, Step, Template
from tk.errors import DataError
from tk.sample import Message, Part, Sample
from tk_embedding.options import EmbeddingOptions
from tk_tensor.collate import collate_tokens
from tk_tensor.cut import shortened
from tk_tensor.offline import Offline
from tk_tensor.tokens import Tokens


class Embedding(Offline):
    """Losses on the vectors of texts that see one another."""

    def __init__(self, options: EmbeddingOptions, losses: Mapping[str, tuple[float, Loss]]) -> None:
        super().__init__(losses, ("query",))
        self.options = options

    def roles(self) -> Sequence[Role]:
        return (Role("policy", head=Head("none", pooling=self.options.pooling)),)

    def encode(self, samples: Sequence[Sample], template: Template, limit: Limit) -> list[Sequence[Example]]:
        pieces = [self._pieces(sample) for sample in samples]
        encodings = iter(template.encode([piece for own in pieces for piece in own]))
        found: list[Sequence[Example]] = []
        for sample, own in zip(samples, pieces, strict=True):
            parts = [shortened(next(encodings), limit, sample.origin) for _ in own]
            whole = [part for part in parts if part is not None]
            found.append([self._example(whole, sample.origin)] if len(whole) == len(parts) else [])
        return found

    def _pieces(self, sample: Sample) -> list[Sample]:
        """The query (a text, or a message with pictures), then its positive and negatives."""
        if not sample.passages:
            raise DataError(f"{sample.origin}: no passage: this method needs a query and a positive.")
        if sample.messages:
            query = Sample(_prefixed(sample.messages, self.options.query_prefix), origin=sample.origin)
        else:
            query = Sample(text=self.options.query_prefix + sample.text, origin=sample.origin)
        prefix = self.options.passage_prefix
        return [query, *(Sample(text=prefix + passage, origin=sample.origin) for passage in sample.passages)]

    def _example(self, parts: Sequence[Tokens], origin: str) -> Example:
        ends = np.cumsum([len(part) for part in parts]).astype(np.int32)
        whole = reduce(operator.add, parts)
        return whole.example(self.objective.weights({"query": 1.0}), origin, ends=ends)

    def collate(self, rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        texts = [[text for example in row for text in _split(example)] for row in rows]
        if not layout.packing:
            texts = [[text] for row in texts for text in row]
        batch = self.batch(rows, collate_tokens(texts, layout))
        parts = [part for row in rows for example in row for part in range(len(example.values["ends"]))]
        return replace(batch, fields={**batch.fields, "parts": torch.tensor(parts)})

    def loss(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        terms = self.objective.terms(outputs, batch.fields, reduce)
        return Step(terms, _metrics(outputs["policy"]["pooled"].detach(), batch.fields["parts"]))


def _prefixed(messages: Sequence[Message], prefix: str) -> tuple[Message, ...]:
    """Messages whose first begins with the prefix."""
    first, content = messages[0], messages[0].content
    if not prefix:
        return tuple(messages)
    begun = prefix + content if isinstance(content, str) else (Part("text", prefix), *content)
    return (replace(first, content=begun), *messages[1:])


def _split(example: Example) -> list[Example]:
    """Each text of an example as one of its own."""
    whole = Tokens.untrained(example.values["ids"], example.media)
    ends = example.values["ends"].tolist()
    return [whole[start:end].example({}, example.origin) for start, end in pairwise([0, *ends])]


def _metrics(vectors: Tensor, parts: Tensor) -> dict[str, tuple[Tensor, float]]:
    """How many queries are nearest to their own passage, and their cosine with it."""
    cosines = vectors[parts == 0] @ vectors[parts > 0].T
    own = torch.nonzero(parts[parts > 0] == 1).flatten()
    count = float(len(own))
    return {
        "accuracy": ((cosines.argmax(1) == own).float(), count),
        "cosine": (cosines.gather(1, own[:, None])[:, 0], count),
    }
