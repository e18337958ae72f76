"""Labels of whole sequences, by a score head on their last token (or as the encoder pools them)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tk.contracts import Batch, Example, Head, Layout, Limit, Loss, Reduce, Role, Rows, Step, Template
from tk.errors import DataError
from tk.sample import Sample
from tk_classification.options import ClassOptions, RegressionOptions
from tk_tensor.collate import collate_tokens
from tk_tensor.cut import shortened
from tk_tensor.offline import Offline
from tk_tensor.tokens import Tokens

Options = ClassOptions | RegressionOptions


class _Labelled(Offline):
    """What the three have in common: everything but what a label is, and how it is measured."""

    problem: ClassVar[str]

    def __init__(self, options: Options, losses: Mapping[str, tuple[float, Loss]]) -> None:
        super().__init__(losses, ("sequence",))
        self.labels = options.labels

    def roles(self) -> Sequence[Role]:
        return (Role("policy", head=Head("score", self.labels, self.problem)),)

    def encode(self, samples: Sequence[Sample], template: Template, limit: Limit) -> list[Sequence[Example]]:
        labels = [self._read(sample) for sample in samples]
        return [
            self._examples(shortened(encoding, limit, sample.origin), label, sample.origin)
            for encoding, label, sample in zip(template.encode(samples), labels, samples, strict=True)
        ]

    def _examples(self, tokens: Tokens | None, label: np.ndarray, origin: str) -> list[Example]:
        return (
            [] if tokens is None else [tokens.example(self.objective.weights({"sequence": 1.0}), origin, label=label)]
        )

    def collate(self, rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        batch = self.batch(rows, collate_tokens(rows, layout))
        labels = torch.from_numpy(np.stack([e.values["label"] for row in rows for e in row]))
        return replace(batch, fields={**batch.fields, "labels": self._as_target(labels)})

    def loss(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        scores = outputs["policy"]["score"].detach()
        terms = self.objective.terms(outputs, batch.fields, reduce)
        return Step(terms, self._metrics(scores, batch.fields["labels"]))

    def _read(self, sample: Sample) -> np.ndarray:
        """The row's label as numbers."""
        if sample.label is None:
            raise DataError(f"{sample.origin}: no label: this method needs a column 'label'.")
        try:
            return self._numbers(sample.label)
        except ValueError as error:
            raise DataError(f"{sample.origin}: {error}") from error

    def _unseen(self, found: np.ndarray) -> list[str]:
        """A note of the labels that no row has. found: how many have each."""
        names = [name for name, count in zip(self.labels, found, strict=True) if not count]
        return [f"no row to train on has the label {', '.join(names)}"] if names else []

    def _index(self, value: Any) -> int:
        """A class by its name or number. Raises ValueError."""
        if isinstance(value, str) and value in self.labels:
            return self.labels.index(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.labels):
            return value
        known = ", ".join(self.labels)
        raise ValueError(
            f"label {value!r} is no class: give a name or a number from 0 to {len(self.labels) - 1} ({known})"
        )

    def _numbers(self, label: Any) -> np.ndarray:
        raise NotImplementedError

    def _as_target(self, labels: Tensor) -> Tensor:
        """[R, numbers] -> as the losses read it."""
        return labels

    def _metrics(self, scores: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor | float]]:
        raise NotImplementedError


class Classification(_Labelled):
    """One class a sequence."""

    problem = "single_label_classification"

    def examine(self, examples: Sequence[Example]) -> Sequence[str]:
        """Raises DataError where all rows are of one class."""
        found = np.bincount([int(e.values["label"][0]) for e in examples], minlength=len(self.labels))
        if np.count_nonzero(found) == 1:
            raise DataError(
                f"data: all {len(examples)} rows to train on have the label {self.labels[int(found.argmax())]!r}: a "
                "classifier needs rows of two classes."
            )
        return self._unseen(found)

    def _numbers(self, label: Any) -> np.ndarray:
        return np.array([self._index(label)], dtype=np.int32)

    def _as_target(self, labels: Tensor) -> Tensor:
        return labels[:, 0].long()

    def _metrics(self, scores: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor | float]]:
        return {"accuracy": ((scores.argmax(1) == labels).float().sum(), float(len(labels)))}


class MultiLabel(_Labelled):
    """Any number of classes a sequence; one holds where its score is above 0."""

    problem = "multi_label_classification"

    def examine(self, examples: Sequence[Example]) -> Sequence[str]:
        """Raises DataError where all rows have the same labels."""
        found = sum((e.values["label"] for e in examples), np.zeros(len(self.labels)))
        if not ((found > 0) & (found < len(examples))).any():
            raise DataError(
                f"data: all {len(examples)} rows to train on have the same labels: nothing is to be learnt."
            )
        return self._unseen(found)

    def _numbers(self, label: Any) -> np.ndarray:
        if not isinstance(label, (list, tuple)):
            raise ValueError(f"label must be a list of classes, not {label!r}")
        found = np.zeros(len(self.labels), dtype=np.float32)
        found[[self._index(value) for value in label]] = 1.0
        return found

    def _metrics(self, scores: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor | float]]:
        held, true = scores > 0, labels > 0.5
        right = (held & true).sum()
        return {
            "accuracy": ((held == true).all(1).float().sum(), float(len(labels))),
            "f1": (2.0 * right, held.sum() + true.sum()),  # micro-averaged
        }


class Regression(_Labelled):
    """Numbers of a sequence."""

    problem = "regression"

    def _numbers(self, label: Any) -> np.ndarray:
        numbers = list(label) if isinstance(label, (list, tuple)) else [label]
        if any(isinstance(n, bool) or not isinstance(n, (int, float)) or not math.isfinite(n) for n in numbers):
            raise ValueError(f"label must be a number, or a list of numbers, not {label!r}")
        if len(numbers) != len(self.labels):
            raise ValueError(f"label has {len(numbers)} numbers, and method.labels names {len(self.labels)}")
        return np.array(numbers, dtype=np.float32)

    def _metrics(self, scores: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor | float]]:
        difference = scores - labels
        return {
            "mse": (difference.square().mean(1).sum(), float(len(labels))),
            "mae": (difference.abs().mean(1).sum(), float(len(labels))),
        }
