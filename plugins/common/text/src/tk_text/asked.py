"""What of a request every engine has to make sure of, before anything is generated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tk.contracts import LoadedModel, Request
from tk.errors import RequestError, TkError, UsageError


def checked(request: Request, model: LoadedModel, most: int | None = None) -> int:
    """Tokens that an answer to a request may have; most: positions that the engine has.

    Raises RequestError for a prompt that is empty or leaves no room, else TkError for what cannot be served.
    """
    sampling = request.sampling
    if request.messages or request.tools:
        raise UsageError("This engine takes a prompt's tokens, not messages and tools: a template makes them.")
    if not len(request.ids):
        raise RequestError("A prompt is empty: there is nothing to go on from.")
    if request.media and model.media is None:
        raise TkError(f"The model takes text only, and the request has an {request.media[0].type}.")
    if request.media and request.prompt_logps:
        raise UsageError("A prompt with pictures has tokens without log-probs: ask for those of texts only.")
    known = model.adapters.names if model.adapters is not None else ()
    if request.adapter and request.adapter not in known:
        raise UsageError(f"There is no adapter {request.adapter!r}: {', '.join(known) or 'none is loaded'}.")
    bounds = {
        "max_tokens": sampling.max_tokens >= (0 if request.prompt_logps else 1),
        "temperature": sampling.temperature >= 0,
        "top_p": 0 < sampling.top_p <= 1,
        "top_k": sampling.top_k >= 0,
        "n": sampling.n >= 1,
        "repetition_penalty": sampling.repetition_penalty > 0,
        "top_logprobs": sampling.top_logprobs >= 0,
        "min_p": 0 <= sampling.min_p <= 1,
        "logit_bias": all(name.isdecimal() and int(name) < len(model.tokenizer) for name in sampling.logit_bias),
    }
    for name, holds in bounds.items():
        if not holds:
            raise UsageError(f"sampling.{name}: {getattr(sampling, name)} is out of bounds.")
    positions = min(model.max_length or 2**31, most or 2**31)
    room = positions - len(request.ids)
    if room < min(1, sampling.max_tokens):
        whose = "model" if positions == model.max_length else "engine"
        raise RequestError(
            f"A prompt of {len(request.ids)} tokens fills the {whose}'s {positions} positions: shorten it.",
            too_long=True,
        )
    return min(sampling.max_tokens, room)


def stops(request: Request, model: LoadedModel) -> tuple[frozenset[int], Sequence[str]]:
    """Tokens and texts that end an answer. A special token's spelling never shows in a text: it stops by its id."""
    tokenizer, asked = model.tokenizer, request.sampling.stop
    special = set(tokenizer.all_special_tokens)
    named = {tokenizer.convert_tokens_to_ids(stop) for stop in asked if stop in special}
    ids = frozenset(request.stop_ids or _end_ids(model)) | named
    return ids, [stop for stop in asked if stop not in special]


def seed_of(seed: int, number: int) -> int:
    """The seed of one of a request's completions."""
    return (seed * 1_000_003 + number) % 2**63


def _end_ids(model: LoadedModel) -> Iterable[int]:
    """The checkpoint's own end tokens, for requests that name none."""
    config = getattr(model.module, "generation_config", None)
    ends = config.eos_token_id if config is not None else None
    ends = model.tokenizer.eos_token_id if ends is None else ends
    return ends if isinstance(ends, list) else [] if ends is None else [ends]
