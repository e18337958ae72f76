"""The engine `transformers`: many requests on their way at once, on the module in memory."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tk.contracts import Delta, Layout, LoadedModel, Pass, Request, Role, Stat
from tk.errors import RequestError, TkError, UsageError
from tk_tensor.branches import masks_for
from tk_tensor.collate import collate_tokens
from tk_tensor.packing import probe_shared_prefix
from tk_tensor.probe import digest
from tk_tensor.scored import build_scored
from tk_tensor.tokens import Tokens, positions_of
from tk_text.asked import checked, seed_of, stops
from tk_text.stream import TextStream
from tk_transformers.batches import Batch, SlotBatch, Unreadable, WholeBatch
from tk_transformers.forward import Forward
from tk_transformers.options import TransformersOptions
from tk_transformers.prefixes import Prefixes
from tk_transformers.rows import Row
from tk_transformers.sampling import choose
from tk_transformers.slots import SlotCache
from tk_transformers.told import Told

STATISTIC_OF = {"score": "score", "none": "pooled"}
"""Kind of head -> the statistic of the scored model that is asked for."""


class TransformersEngine:
    """Generates with a loaded model's own module; its training mode is what it was after every step.

    A request joins those that are on their way as soon as a place is free; a beginning that has been read already is not read again.
    Models that keep more than keys and values (recurrent layers) answer as many requests together as there are places, then the next.
    """

    def __init__(self, options: TransformersOptions, *, model: LoadedModel, folder: Path | None = None) -> None:
        self.options = options
        self.model = model
        self.version = 0
        self._seeds = random.Random(options.seed) if options.seed is not None else random.SystemRandom()
        self._keys = count()
        self._waiting: deque[Row] = deque()
        self._batch: Batch | None = None
        self._prefixes = Prefixes(options.prefix_cache)
        self._probed: tuple[object, bool] = (None, False)
        self._torn = False

    def add(self, request: Request) -> int:
        limit = checked(request, self.model)
        stop_ids, texts = stops(request, self.model)
        seed = request.sampling.seed if request.sampling.seed is not None else self._seeds.getrandbits(48)
        prompt, key = np.asarray(request.ids, dtype=np.int64), next(self._keys)
        positions = positions_of(prompt, request.media, self._layout)
        told = Told(prompt, request.sampling.top_logprobs) if request.prompt_logps else None
        self._waiting.extend(
            Row(
                key,
                number,
                request,
                prompt,
                positions,
                stop_ids,
                limit,
                torch.Generator().manual_seed(seed_of(seed, number)),
                TextStream(self.model.tokenizer, texts),
                told,
            )
            for number in range(request.sampling.n)
        )
        return key

    def step(self) -> list[Delta]:
        self._check_whole()
        self._admit()
        batch = self._batch
        if batch is None:
            return []
        try:
            rows, logits = batch.advance()
        except Unreadable as failed:
            deltas = [failed.row.fail(RequestError(str(failed.error)))]
        else:
            deltas = self._taken(rows, logits) if logits is not None else []
        self._settle(batch)
        return deltas

    def cancel(self, key: int) -> None:
        self._waiting = deque(row for row in self._waiting if row.key != key)
        if self._batch is not None:
            for row in self._batch.rows:
                if row.key == key:
                    row.finish = "cancelled"
            self._settle(self._batch)

    def score(self, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        """By the way that training takes, so that what is served is what was trained; texts of like length together."""
        self._check_whole()
        head = self.model.head.kind
        if head not in STATISTIC_OF:
            raise UsageError(f"A model with a {head} head gives no scores and no vectors.")
        if named := sorted({request.adapter for request in requests} - {""}):
            raise UsageError(f"Scores and vectors are those of the model itself, not of the adapter {named[0]!r}.")
        scored = build_scored({"policy": self.model}, (Role("policy", head=self.model.head),))
        asked, device = Pass((Stat(STATISTIC_OF[head]),), grad=False), next(self.model.module.parameters()).device
        found: dict[int, tuple[float, ...]] = {}
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].ids))
        for start in range(0, len(order), self.options.max_batch):
            places = order[start : start + self.options.max_batch]
            whole = [Tokens.untrained(requests[i].ids, requests[i].media).example({}, "") for i in places]
            inputs, fields, _, _ = collate_tokens([[example] for example in whole], self._layout)
            moved = [{name: value.to(device) for name, value in part.items()} for part in (inputs, fields)]
            with torch.no_grad():
                values = scored(*moved, [asked])["policy"][STATISTIC_OF[head]]
            found |= {i: tuple(row) for i, row in zip(places, values.tolist(), strict=True)}
        return [found[i] for i in range(len(requests))]

    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> str:
        """Put tensors into the module by name. Raises TkError for a name or shape that it does not have.

        Answers on their way go on with them, from what was read before. Nothing is answered after an update that has failed
        when it was half done, until one succeeds.
        """
        module = self.model.module
        own = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
        self._prefixes.clear()
        for row in self._batch.rows if self._batch is not None else ():
            row.outdated = row.read > 0
        given = False
        with torch.no_grad():
            for name, tensor in weights:
                given = True
                if name not in own:
                    raise TkError(f"The engine's model has no weight named {name!r}.")
                if own[name].shape != tensor.shape:
                    raise TkError(f"{name}: the engine's shape is {tuple(own[name].shape)}, not {tuple(tensor.shape)}.")
                self._torn = True
                own[name].copy_(tensor)
        self._torn = self._torn and not given
        self.version = version
        return digest(module) if given else ""

    def sleep(self) -> None:
        """Forget the beginnings that were read; the keys and values of requests go with the last of them anyway."""
        self._prefixes.clear()

    def close(self) -> None:
        """What is on its way is let go; the module belongs to whoever loaded it."""
        self._waiting.clear()
        self._batch = None
        self._prefixes.clear()

    def _check_whole(self) -> None:
        if self._torn:
            raise TkError(
                "The engine holds a part of other weights, since an update of them failed: give it whole ones."
            )

    @property
    def in_flight(self) -> int:
        """Answers on their way, and those that wait for a place."""
        return len(self._waiting) + (len(self._batch.rows) if self._batch else 0)

    @property
    def _layout(self) -> Layout:
        return Layout(int(self.model.tokenizer.pad_token_id), media=self.model.media)

    def _admit(self) -> None:
        """Give the free places to the requests that wait."""
        if not self._waiting:
            return
        if self._batch is None:
            self._batch = self._new_batch()
        if self._batch.rows and not self._batch.joins:
            return
        free = self.options.max_batch - len(self._batch.rows)
        self._batch.add([self._waiting.popleft() for _ in range(min(free, len(self._waiting)))])

    def _new_batch(self) -> Batch:
        forward = Forward(self.model)
        masks, layers = masks_for(self.model.module), SlotCache.layers_of(forward.config)
        if masks is None or layers is None or not self._takes_masks():
            return WholeBatch(forward)
        return SlotBatch(forward, masks, layers, self._prefixes, self.options.max_read)

    def _takes_masks(self) -> bool:
        """Whether the module computes the same under a mask that says what each token sees."""
        if self._probed[0] is not self.model.module:
            self._probed = (self.model.module, probe_shared_prefix(self.model.module, self.model.media))
        return self._probed[1]

    def _taken(self, rows: Sequence[Row], logits: Tensor) -> list[Delta]:
        """The next token of every row, but for those that are to be read only."""
        asked = [at for at, row in enumerate(rows) if row.limit]
        chosen = (
            choose(logits[asked] if len(asked) < len(rows) else logits, [rows[at] for at in asked]) if asked else []
        )
        taken = dict(zip(asked, chosen, strict=True))
        return [
            row.take(taken[at], self.version) if at in taken else row.end(self.version) for at, row in enumerate(rows)
        ]

    def _settle(self, batch: Batch) -> None:
        """Rows that have ended leave; with the last of them goes the memory of their keys and values."""
        batch.drop()
        if not batch.rows:
            self._batch = None
