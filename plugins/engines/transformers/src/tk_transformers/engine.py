"""The engine `transformers`: a decode loop over rows that leave the batch as they end, on the module in memory."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tk.contracts import Completion, Delta, Layout, LoadedModel, Pass, Request, Role, Sampling, Stat
from tk.errors import TkError, UsageError
from tk_tensor.collate import all_positions, collate_tokens
from tk_tensor.scored import build_scored
from tk_tensor.tokens import Tokens, media_inputs, positions_of
from tk_transformers.options import TransformersOptions
from tk_transformers.sampling import choose, penalise
from tk_transformers.text import TextStream

STATISTIC_OF = {"score": "score", "none": "pooled"}
"""Kind of head -> the statistic of the scored model that is asked for."""


@dataclass
class _Row:
    """A completion on its way. index: of its request. limit: tokens that it may have."""

    index: int
    request: Request
    sampling: Sampling
    stop_ids: frozenset[int]
    limit: int
    generator: torch.Generator
    stream: TextStream
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    finish: Literal["", "stop", "length"] = ""

    def take(self, token: int, logp: float) -> None:
        """Add a token, and end where it is or completes a stop, or is the last one allowed."""
        self.ids.append(token)
        self.logps.append(logp)
        if token in self.stop_ids:
            self.finish = "stop"
        else:
            self.text.append(self.stream.push(token))
            if self.stream.stopped:
                self.finish = "stop"
            elif len(self.ids) >= self.limit:
                self.finish = "length"
        if self.finish:
            self.text.append(self.stream.finish())


class TransformersEngine:
    """Generates with a loaded model's own module; its training mode is what it was after every step."""

    def __init__(self, options: TransformersOptions, *, model: LoadedModel) -> None:
        self.options = options
        self.model = model
        self.version = 0
        self._seeds = random.Random(options.seed) if options.seed is not None else random.SystemRandom()

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """`sampling.n` completions of each request, in order; rows of like length are decoded together."""
        rows = [row for index, request in enumerate(requests) for row in self._rows(index, request)]
        for batch in _batches(rows, self.options.max_batch):
            for _ in self._decode(batch):
                pass
        found: list[list[Completion]] = [[] for _ in requests]
        for row in rows:
            found[row.index].append(self._completion(row))
        return found

    def stream(self, request: Request) -> Iterator[Delta]:
        """One completion in pieces of whole characters; the pieces joined are `generate`'s text."""
        if request.sampling.n != 1:
            raise UsageError(f"Only one completion can be streamed at a time, not n = {request.sampling.n}.")
        (row,) = self._rows(0, request)
        return self._deltas(row)

    def score(self, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        """By the way that training takes, so that what is served is what was trained; texts of like length together."""
        head = self.model.head.kind
        if head not in STATISTIC_OF:
            raise UsageError(f"A model with a {head} head gives no scores and no vectors.")
        scored = build_scored({"policy": self.model}, (Role("policy", head=self.model.head),))
        asked, device = Pass((Stat(STATISTIC_OF[head]),), grad=False), next(self.model.module.parameters()).device
        layout = Layout(int(self.model.tokenizer.pad_token_id), media=self.model.media)
        found: dict[int, tuple[float, ...]] = {}
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].ids))
        for start in range(0, len(order), self.options.max_batch):
            places = order[start : start + self.options.max_batch]
            whole = [Tokens.untrained(requests[i].ids, requests[i].media).example({}, "") for i in places]
            inputs, fields, _, _ = collate_tokens([[example] for example in whole], layout)
            moved = [{name: value.to(device) for name, value in part.items()} for part in (inputs, fields)]
            with torch.no_grad():
                values = scored(*moved, [asked])["policy"][STATISTIC_OF[head]]
            found |= {i: tuple(row) for i, row in zip(places, values.tolist(), strict=True)}
        return [found[i] for i in range(len(requests))]

    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Put tensors into the module by name. Raises TkError for a name or shape that it does not have."""
        module = self.model.module
        own = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
        with torch.no_grad():
            for name, tensor in weights:
                if name not in own:
                    raise TkError(f"The engine's model has no weight named {name!r}.")
                if own[name].shape != tensor.shape:
                    raise TkError(f"{name}: the engine's shape is {tuple(own[name].shape)}, not {tuple(tensor.shape)}.")
                own[name].copy_(tensor)
        self.version = version

    def close(self) -> None:
        """Nothing to let go: the module belongs to whoever loaded it."""

    def _deltas(self, row: _Row) -> Iterator[Delta]:
        for _ in self._decode([row]):
            yield Delta("".join(row.text), (row.ids[-1],), row.finish)
            row.text.clear()

    def _completion(self, row: _Row) -> Completion:
        logps = tuple(row.logps) if row.sampling.logprobs else None
        reason: Literal["stop", "length"] = "stop" if row.finish == "stop" else "length"
        return Completion(tuple(row.ids), "".join(row.text), reason, logps, self.version)

    def _rows(self, index: int, request: Request) -> list[_Row]:
        sampling, tokenizer = request.sampling, self.model.tokenizer
        _check(request, self.model)
        # A special token's spelling never shows in the text: it stops by its id.
        special = set(tokenizer.all_special_tokens)
        named = {tokenizer.convert_tokens_to_ids(stop) for stop in sampling.stop if stop in special}
        stop_ids = frozenset(request.stop_ids or self._end_ids()) | named
        texts = [stop for stop in sampling.stop if stop not in special]
        room = self._positions() - len(request.ids)
        if room < 1:
            raise TkError(f"A prompt of {len(request.ids)} tokens fills the model's {self._positions()} positions.")
        seed = sampling.seed if sampling.seed is not None else self._seeds.getrandbits(48)
        return [
            _Row(
                index,
                request,
                sampling,
                stop_ids,
                min(sampling.max_tokens, room),
                torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63),
                TextStream(tokenizer, texts),
            )
            for number in range(sampling.n)
        ]

    def _end_ids(self) -> Iterable[int]:
        """The checkpoint's own end tokens, for requests that name none."""
        config = getattr(self.model.module, "generation_config", None)
        ends = config.eos_token_id if config is not None else None
        ends = self.model.tokenizer.eos_token_id if ends is None else ends
        return ends if isinstance(ends, list) else [] if ends is None else [ends]

    def _positions(self) -> int:
        config = self.model.module.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or 2**31)

    def _decode(self, rows: list[_Row]) -> Iterator[None]:
        """Run the rows to their ends; a step of the loop a yield."""
        layout = Layout(int(self.model.tokenizer.pad_token_id), "left", media=self.model.media)
        run = _Run(self.model.module, layout, [row.request for row in rows])
        while True:
            settings = [row.sampling for row in rows]
            logits = run.logits
            if run.seen is not None:
                logits = penalise(logits, run.seen, settings)
            tokens, logps = choose(logits, settings, [row.generator for row in rows])
            for row, token, logp in zip(rows, tokens.tolist(), logps.tolist(), strict=True):
                row.take(token, logp)
            yield
            left = [place for place, row in enumerate(rows) if not row.finish]
            if not left:
                return
            rows = [rows[place] for place in left]
            run.step(tokens, left)


class _Run:
    """The tensors of a batch being decoded.

    logits: [B, V] float32 of the next token. ahead: [B, 1], by how much the positions of media have run ahead of the
    number of tokens. seen: [B, V], or None where no row penalises repetition.
    """

    def __init__(self, module: nn.Module, layout: Layout, requests: Sequence[Request]) -> None:
        self.module = module
        self.device = next(module.parameters()).device
        # A token that stands for a medium would have none behind it.
        marks = list(layout.media.marks.values()) if layout.media else []
        self._marks = torch.tensor(marks, dtype=torch.long, device=self.device)
        base: Any = module.get_base_model() if hasattr(module, "get_base_model") else module
        self._parameters = inspect.signature(base.forward).parameters
        self._cache_name = "cache" if "cache" in self._parameters else "past_key_values"
        self.cache = DynamicCache(config=base.config)
        # Requests for several completions are read once, and their rows copied.
        unique = list({id(request): request for request in requests}.values())
        place = {id(request): number for number, request in enumerate(unique)}
        ids, self.mask, positions = self._padded(unique, layout)
        self._axes = len(positions) if positions.ndim == 3 else 0
        last = positions[1:].amax((0, 2)) if self._axes else positions.amax(1)
        self.ahead = last[:, None] + 1 - self.mask.sum(-1, keepdim=True)
        media = media_inputs([medium for request in unique for medium in request.media], layout)
        logits = self._forward(ids, positions, {name: value.to(self.device) for name, value in media.items()})
        copies = [place[id(request)] for request in requests]
        self.seen: Tensor | None = None
        if any(request.sampling.repetition_penalty != 1 for request in requests):
            self.seen = torch.zeros(logits.shape, dtype=torch.bool, device=self.device)
            for number, request in enumerate(unique):
                self.seen[number, torch.as_tensor(request.ids, device=self.device)] = True
        self.logits = logits
        self._select(copies)

    def step(self, tokens: Tensor, left: Sequence[int]) -> None:
        """Go on with the rows that are `left`, whose last tokens are among `tokens` [B]."""
        if self.seen is not None:
            self.seen[torch.arange(len(tokens), device=self.device), tokens] = True
        self._select(left)
        tokens = tokens[torch.as_tensor(left, device=self.device)]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        position = self.mask.sum(-1, keepdim=True) - 1
        if self._axes:
            position = torch.stack([position, *[position + self.ahead] * (self._axes - 1)])
        self.logits = self._forward(tokens[:, None], position, {})

    def _select(self, places: Sequence[int]) -> None:
        if list(places) == list(range(len(self.mask))):
            return
        index = torch.as_tensor(places, device=self.device)
        self.cache.batch_select_indices(index)
        self.mask, self.logits, self.ahead = self.mask[index], self.logits[index], self.ahead[index]
        if self.seen is not None:
            self.seen = self.seen[index]

    def _padded(self, requests: Sequence[Request], layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, mask [B, T] and positions, with padding on the left, so that all rows end at the same place."""
        length = max(len(request.ids) for request in requests)
        spans = [slice(length - len(request.ids), length) for request in requests]
        ids = np.full((len(requests), length), layout.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        placed = []
        for row, (request, span) in enumerate(zip(requests, spans, strict=True)):
            ids[row, span], mask[row, span] = request.ids, 1
            placed.append((row, span, positions_of(ids[row, span], request.media, layout)))
        tensors = (torch.from_numpy(each).to(self.device) for each in (ids, mask, all_positions(ids.shape, placed)))
        return tuple(tensors)  # type: ignore[return-value]

    def _forward(self, ids: Tensor, positions: Tensor, media: Mapping[str, Tensor]) -> Tensor:
        inputs: dict[str, Any] = {self._cache_name: self.cache, "use_cache": True, "attention_mask": self.mask, **media}
        if "position_ids" in self._parameters:
            inputs["position_ids"] = positions
        if "logits_to_keep" in self._parameters:
            inputs["logits_to_keep"] = 1
        with torch.no_grad(), _evaluating(self.module):
            logits: Tensor = self.module(input_ids=ids, **inputs).logits
        return logits[:, -1].float().index_fill(1, self._marks, float("-inf"))


def _batches(rows: Sequence[_Row], size: int) -> Iterator[list[_Row]]:
    """Rows of like prompt length together, the longest first (what does not fit in memory fails at once)."""
    ordered = sorted(rows, key=lambda row: -len(row.request.ids))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Every part in evaluation mode while it is entered, and as it was afterwards."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _check(request: Request, model: LoadedModel) -> None:
    sampling = request.sampling
    if not len(request.ids):
        raise TkError("A prompt is empty: there is nothing to go on from.")
    if request.media and model.media is None:
        raise TkError(f"The model takes text only, and the request has an {request.media[0].type}.")
    bounds = {
        "max_tokens": sampling.max_tokens >= 1,
        "temperature": sampling.temperature >= 0,
        "top_p": 0 < sampling.top_p <= 1,
        "top_k": sampling.top_k >= 0,
        "n": sampling.n >= 1,
        "repetition_penalty": sampling.repetition_penalty > 0,
    }
    for name, holds in bounds.items():
        if not holds:
            raise UsageError(f"sampling.{name}: {getattr(sampling, name)} is out of bounds.")
