"""Rows as a run would train on them: what a format reads, what a template and a method make of it, and the pictures.

No weights are read. Everything here goes through contracts, so that it is the same for every method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from tk.compose import Plan
from tk.contracts import Batch, Layout, Limit, LoadedModel, MediaProcessor, Medium, Method, Template
from tk.errors import DataError
from tk.inference import opened
from tk.loading import trained_head
from tk.sample import Sample, sequence_names


@dataclass(frozen=True)
class Token:
    """A token, or the `repeated` ones that stand for a medium. weight: of predicting it; 0: it is not trained."""

    text: str
    weight: float = 0.0
    repeated: int = 1


@dataclass(frozen=True)
class Shown:
    """A medium. seen: the picture as the model sees it, as PNG."""

    type: str
    source: str
    size: Sequence[int]
    seen: bytes = b""


@dataclass(frozen=True)
class Laid:
    """One of the sequences that are made of a row. name: chosen, rejected, query, passage; "" for a row's only one."""

    name: str
    tokens: Sequence[Token]

    @property
    def length(self) -> int:
        return sum(token.repeated for token in self.tokens)

    @property
    def trained(self) -> int:
        return sum(token.repeated for token in self.tokens if token.weight)


@dataclass(frozen=True)
class PreviewRow:
    """A row. problem: why a run would stop at it or leave it out. shared: leading tokens that its sequences share."""

    origin: str
    sequences: Sequence[Laid] = ()
    media: Sequence[Shown] = ()
    label: Any = None
    tools: Sequence[str] = ()
    shared: int = 0
    columns: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def preview(plan: Plan, rows: int) -> Iterator[PreviewRow]:
    """The first rows of each of a plan's data sources. Raises UsageError where none is named."""
    readings = opened(plan)
    settings, family, method = plan.config.model, plan.family.build(), plan.method()
    model: LoadedModel = family.load(
        family.resolve(settings.name, settings.revision),
        device="meta",
        dtype=settings.dtype,
        head=trained_head(plan),
        trust_remote_code=settings.trust_remote_code,
        media=plan.config.media,
    )
    template: Template = plan.one("template").build(tokenizer=model.tokenizer, media=model.media)
    data = plan.config.data
    limit = Limit(data.max_length if data.max_length is not None else model.max_length, data.truncation)
    maker = _Maker(method, template, model, limit)
    for reading in readings:
        for index in range(min(rows, len(reading))):
            try:
                sample = reading.sample(index)
            except DataError as error:
                origin, _, reason = str(error).partition(": ")
                yield PreviewRow(origin, problem=reason)
                continue
            yield maker.row(sample)


@dataclass
class _Maker:
    method: Method
    template: Template
    model: LoadedModel
    limit: Limit

    def row(self, sample: Sample) -> PreviewRow:
        found = PreviewRow(
            sample.origin,
            label=sample.label,
            tools=[_tool(tool) for tool in sample.tools],
            columns={name: value for name, value in sample.extras.items() if isinstance(value, (str, int, float))},
        )
        try:
            (examples,) = self.method.encode([sample], self.template, self.limit)
            if not examples:
                return replace(found, problem=f"longer than {self.limit.max_length} tokens: it is left out")
            layout = Layout(pad_id=self.model.tokenizer.pad_token_id, media=self.model.media)
            batches = [self.method.collate([[example]], layout) for example in examples]
            sequences = [each for batch in batches for each in self._sequences(batch, sample)]
            media = [medium for example in examples for medium in example.media]
            shown = [_shown(self.model.media, medium) for medium in media if self.model.media is not None]
        except DataError as error:
            return replace(found, problem=str(error).removeprefix(f"{sample.origin}: "))
        return replace(found, sequences=sequences, media=shown, shared=_shared(sequences))

    def _sequences(self, batch: Batch, sample: Sample) -> Iterator[Laid]:
        """The rows of a batch; of a method that trains on what is generated, the prompt."""
        if "input_ids" not in batch.inputs:
            prompt = replace(sample, messages=sample.asked)
            (encoding,) = self.template.encode([prompt], generation=True)
            yield Laid("prompt", self._tokens(list(encoding.ids), {}))
            return
        ids = batch.inputs["input_ids"].tolist()
        kept = batch.inputs["attention_mask"].tolist()
        weights: dict[int, float] = {}
        if "select" in batch.fields:
            places = zip(batch.fields["select"].tolist(), batch.fields["token_weights"].tolist(), strict=True)
            weights = {place + 1: weight for place, weight in places}  # what a position predicts stands behind it
        names = sequence_names(sample, len(ids))
        for number, (row, mask) in enumerate(zip(ids, kept, strict=True)):
            own = {i: weights[at] for i in range(sum(mask)) if (at := number * len(row) + i) in weights}
            yield Laid(names[number], self._tokens(row[: sum(mask)], own))

    def _tokens(self, ids: Sequence[int], weights: Mapping[int, float]) -> list[Token]:
        """Tokens as text, those of a medium together."""
        marks = {mark: type for type, mark in self.model.media.marks.items()} if self.model.media else {}
        found: list[Token] = []
        for place, token in enumerate(ids):
            if token in marks and found and place and ids[place - 1] == token:
                found[-1] = replace(found[-1], repeated=found[-1].repeated + 1)
            elif token in marks:
                found.append(Token(f"[{marks[token]}]"))
            else:
                found.append(Token(self.model.tokenizer.decode([token]), weights.get(place, 0.0)))
        return found


def _shared(sequences: Sequence[Laid]) -> int:
    """Leading tokens that two or more sequences have in common, none of them trained."""
    found = 0
    for places in zip(*(each.tokens for each in sequences), strict=False):
        if len(sequences) < 2 or any(a != b for a, b in pairwise(places)) or places[0].weight:
            break
        found += places[0].repeated
    return found


def _shown(processor: MediaProcessor, medium: Medium) -> Shown:
    source = medium.source if not medium.source.startswith("data:") else "in the row"
    return Shown(medium.type, source, medium.size, processor.seen(medium))


def _tool(tool: Mapping[str, Any]) -> str:
    inner = tool.get("function", tool)
    return str(inner.get("name", "")) if isinstance(inner, Mapping) else ""
