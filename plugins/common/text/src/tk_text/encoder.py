"""Rendered conversations to token ids and loss weights, in one call of the fast tokenizer.

A conversation whose content spells a control token ("<|im_end|>") takes a second way: what the template wrote becomes
tokens, what the content spells stays text, so that content never begins or ends a turn.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tk.contracts import Encoding
from tk.errors import DataError, UsageError
from tk.sample import Sample
from tk_text.marks import unused_marks
from tk_text.messages import located

Offsets = list[tuple[int, int]]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    spans: (start, end, weight) in characters, ascending: tokens that start in [start, end) are trained with weight.
    spelled: (start, end) of places where content spells a control token.
    """

    text: str
    spans: Sequence[tuple[int, int, float]] = ()
    spelled: Sequence[tuple[int, int]] = ()
    origin: str = ""


class TokenEncoder:
    """Tokenises for templates. `control`: added tokens that are guarded though not marked special in the tokenizer.

    Guarded are the tokenizer's special tokens and `control`. Other added tokens ("<think>" in some vocabularies) are
    tokens wherever they stand, as in the tokenizer itself: the model writes them in its own content.
    """

    def __init__(self, tokenizer: Any, control: Iterable[str] = ()) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(
                f"{type(tokenizer).__name__} gives no character offsets, which loss spans are found by. "
                "Use a checkpoint with a tokenizer.json (a fast tokenizer)."
            )
        self.tokenizer = tokenizer
        self._added = {token.content: (i, token) for i, token in tokenizer.added_tokens_decoder.items()}
        wanted = {text for text, (_, token) in self._added.items() if token.special}
        self.guarded = {text: self._added[text][0] for text in wanted | (set(control) & self._added.keys())}
        self._guard = _alternatives(text for text in self.guarded if len(text) > 1)

    @property
    def added(self) -> frozenset[str]:
        """Spellings of all added tokens, special or not."""
        return frozenset(self._added)

    @property
    def guard(self) -> re.Pattern[str]:
        """Matches a spelling of a guarded token; the longest where several begin at one place."""
        return self._guard

    def id_of(self, text: str) -> int | None:
        """The id of an added token; None where there is no such token."""
        return self._added[text][0] if text in self._added else None

    @cached_property
    def opening(self) -> list[int]:
        """The tokens that the tokenizer itself puts in front of a text."""
        whole = self.tokenizer("x")["input_ids"]
        plain = self.tokenizer("x", add_special_tokens=False)["input_ids"]
        return next((whole[:i] for i in range(len(whole)) if whole[i : i + len(plain)] == plain), [])

    def encode(self, conversations: Sequence[Rendered]) -> list[Encoding]:
        """Tokens and weights of each; one batched tokenizer call for all that spell no control token."""
        usual = [i for i, rendered in enumerate(conversations) if not rendered.spelled]
        results: dict[int, Encoding] = {}
        if usual:
            ids, offsets = self._tokenize([conversations[i].text for i in usual])
            for i, row, places in zip(usual, ids, offsets, strict=True):
                results[i] = Encoding(row, _weights(places, conversations[i].spans))
        for i, rendered in enumerate(conversations):
            if i not in results:
                row, places = self._tokenize_guarded(rendered)
                results[i] = Encoding(row, _weights(places, rendered.spans))
        return [results[i] for i in range(len(conversations))]

    def encode_text(self, samples: Sequence[Sample]) -> list[Encoding]:
        """Raw text as the tokenizer itself encodes it, where a sample wants it with the end-of-text token; all weights 1."""
        rows = self.tokenizer([sample.text for sample in samples], verbose=False)["input_ids"] if samples else []
        end = self.tokenizer.eos_token_id
        found = []
        for sample, row in zip(samples, rows, strict=True):
            lacks_end = sample.ended and end is not None and row[-1:] != [end]
            ids = [*row, end] if lacks_end else row
            found.append(Encoding(ids, [1.0] * len(ids)))
        return found

    def _tokenize(self, texts: list[str]) -> tuple[list[list[int]], list[Offsets]]:
        if self._untrimmed is not None:
            encodings = self._untrimmed.encode_batch(texts, add_special_tokens=False)
            return [e.ids for e in encodings], [e.offsets for e in encodings]
        batch = self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return batch["input_ids"], batch["offset_mapping"]

    def _tokenize_guarded(self, rendered: Rendered) -> tuple[list[int], Offsets]:
        """Every added token but the spelled ones becomes its id; the text between is encoded without added tokens."""
        text = rendered.text
        blank = next(unused_marks(text))
        broken = text
        for start, _ in rendered.spelled:
            broken = broken[:start] + blank + broken[start + 1 :]
        ids: list[int] = []
        offsets: Offsets = []
        at = 0
        for match in self._tokens.finditer(broken):
            self._append_text(ids, offsets, text, at, match.start())
            written = match.group() if match.group() in self._added else match.group().strip()
            ids.append(self._added[written][0])
            offsets.append(match.span())
            at = match.end()
        self._append_text(ids, offsets, text, at, len(text))
        for start, end in rendered.spelled:
            own = {i for i, (first, _) in zip(ids, offsets, strict=True) if start <= first < end}
            if self.guarded[text[start:end]] in own:
                raise DataError(
                    located(
                        rendered.origin,
                        f"the content spells {text[start:end]!r}, which this tokenizer cannot write as plain text. "
                        "Change that text.",
                    )
                )
        return ids, offsets

    def _append_text(self, ids: list[int], offsets: Offsets, text: str, start: int, end: int) -> None:
        """Encode text[start:end] without added tokens. Past the start, some tokenizers would put a space in front."""
        if start == end:
            return
        shield = "\n" if start and self._adds_prefix else ""
        encoding = self._plain.encode(shield + text[start:end], add_special_tokens=False)
        skip = len(self._plain.encode(shield, add_special_tokens=False).ids) if shield else 0
        move = start - len(shield)
        ids += encoding.ids[skip:]
        offsets += [(max(a + move, start), b + move) for a, b in encoding.offsets[skip:]]

    @cached_property
    def _tokens(self) -> re.Pattern[str]:
        """Any added token as the tokenizer matches it, with the white space that it swallows."""
        return re.compile(
            "|".join(
                r"\s*" * token.lstrip + re.escape(text) + r"\s*" * token.rstrip
                for text, (_, token) in sorted(self._added.items(), key=lambda item: -len(item[0]))
            )
            or "(?!)"
        )

    @cached_property
    def _plain(self) -> Any:
        """The tokenizer without its added tokens: text is nothing but text."""
        return _rebuilt(self.tokenizer.backend_tokenizer, added_tokens=[], post_processor=None)

    @cached_property
    def _adds_prefix(self) -> bool:
        """Whether encoding a piece alone differs from encoding it after a token."""
        token = next(iter(self._added), "")
        whole = self.tokenizer(f"{token}x", add_special_tokens=False)["input_ids"]
        return bool(whole[1:] != self._plain.encode("x", add_special_tokens=False).ids)

    @cached_property
    def _untrimmed(self) -> Any:
        """A copy whose offsets keep leading white space, where the tokenizer's own are trimmed; else None.

        A trimmed offset hides that a token began before the span, in the white space of the prompt.
        """
        backend = self.tokenizer.backend_tokenizer
        if backend.post_processor is None:
            return None
        state = json.loads(backend.post_processor.__getstate__())
        steps = state.get("processors", [state])
        return _rebuilt(backend, post_processor=None) if any(s.get("trim_offsets") for s in steps) else None


def _rebuilt(backend: Any, **changes: Any) -> Any:
    state = {**json.loads(backend.to_str()), "truncation": None, "padding": None, **changes}
    return type(backend).from_str(json.dumps(state))


def _alternatives(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def _weights(offsets: Offsets, spans: Sequence[tuple[int, int, float]]) -> list[float]:
    """A weight a token. A token that begins before a span, merged over its start, does not belong to it."""
    weights = [0.0] * len(offsets)
    for start, end, weight in spans:
        first, last = bisect_left(offsets, (start,)), bisect_left(offsets, (end,))
        weights[first:last] = [weight] * (last - first)
    return weights
