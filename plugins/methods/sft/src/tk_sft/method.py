"""Supervised fine-tuning and continued pre-training: conversations or text to token examples, one pass, one term a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tk.contracts import Batch, Encoding, Example, Layout, Limit, Loss, Template
from tk.sample import Message, Sample
from tk_sft.options import SftOptions
from tk_tensor.collate import collate_tokens
from tk_tensor.cut import cut
from tk_tensor.offline import Offline
from tk_tensor.tokens import Tokens

Messages = tuple[Message, ...]


def _last(messages: Messages) -> Messages:
    """Nothing before the last user message is trained, unless the data says so."""
    last = max((i for i, m in enumerate(messages) if m.role == "user"), default=0)
    return tuple(replace(m, loss=0.0) if i < last and m.loss is None else m for i, m in enumerate(messages))


def _all(messages: Messages) -> Messages:
    return tuple(replace(m, loss=1.0) if m.loss is None else m for m in messages)


TRAINED: Mapping[str, Callable[[Messages], Messages]] = {
    "all-assistant": lambda messages: messages,
    "last": _last,
    "all": _all,
}
"""The option `train_on` as loss flags of messages; flags that the data sets are kept."""


class TokenMethod(Offline):
    """What methods on single token sequences share: everything from the encodings on."""

    def __init__(self, losses: Mapping[str, tuple[float, Loss]]) -> None:
        super().__init__(losses, ("token", "sequence"))

    def examples(
        self, encodings: Sequence[Encoding], samples: Sequence[Sample], limit: Limit
    ) -> list[Sequence[Example]]:
        """Examples of each sample. Raises DataError with the sample's origin."""
        found: list[Sequence[Example]] = []
        for encoding, sample in zip(encodings, samples, strict=True):
            found.append([self._example(part, sample.origin) for part in cut(encoding, limit, sample.origin)])
        return found

    def _example(self, tokens: Tokens, origin: str) -> Example:
        counts = {"token": float(tokens.weights[1:].sum(dtype=np.float64)), "sequence": 1.0}
        return tokens.example(self.objective.weights(counts), origin)

    def collate(self, rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        return self.batch(rows, collate_tokens(rows, layout))


class Sft(TokenMethod):
    """Supervised fine-tuning on conversations."""

    def __init__(self, options: SftOptions, losses: Mapping[str, tuple[float, Loss]]) -> None:
        super().__init__(losses)
        self.mark = TRAINED[options.train_on]

    def encode(self, samples: Sequence[Sample], template: Template, limit: Limit) -> list[Sequence[Example]]:
        marked = [replace(s, messages=self.mark(s.messages), ended=True) for s in samples]
        return self.examples(template.encode(marked), samples, limit)


class Pretraining(TokenMethod):
    """Continued pre-training: every token is trained, of raw text or of whole rendered conversations."""

    def encode(self, samples: Sequence[Sample], template: Template, limit: Limit) -> list[Sequence[Example]]:
        ended = [replace(sample, ended=True) for sample in samples]
        encodings = [replace(e, weights=[1.0] * len(e.ids)) for e in template.encode(ended)]
        return self.examples(encodings, samples, limit)
