"""From rows to prompts: what an online method's `encode` and `collate` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tk.contracts import Batch, Example, Limit, Medium, Template
from tk.errors import DataError
from tk.sample import Message, Sample


@dataclass(frozen=True)
class Prompt:
    """A conversation up to where the assistant is to speak: its tokens, the row that it is of, and its media."""

    ids: Sequence[int]
    sample: Sample
    media: Sequence[Medium] = ()


def encode_prompts(
    samples: Sequence[Sample], template: Template, limit: Limit, max_tokens: int
) -> list[Sequence[Example]]:
    """A prompt of each sample; an answer that stands in the row is not shown to the model.

    max_tokens: room that the model must have after the prompt. Raises DataError for a prompt that is too long.
    """
    asked = [replace(sample, messages=_prompt(sample)) for sample in samples]
    found: list[Sequence[Example]] = []
    for sample, encoding in zip(asked, template.encode(asked, generation=True), strict=True):
        ids = list(encoding.ids)
        mend = _too_long(len(ids), limit, max_tokens)
        if not mend:
            prompt = Prompt(ids, sample, encoding.media)
            found.append([Example(len(ids), {"prompt": prompt}, {}, sample.origin, encoding.media)])
        elif limit.truncation == "drop":
            found.append([])
        else:
            raise DataError(f"{sample.origin}: the prompt has {len(ids)} tokens, {mend}")
    return found


def _too_long(tokens: int, limit: Limit, max_tokens: int) -> str:
    """What to do about a prompt of so many tokens; "" where it fits."""
    if limit.max_length is not None and tokens > limit.max_length:
        return (
            f"more than data.max_length {limit.max_length}: raise it, or leave such rows out with data.truncation drop."
        )
    if limit.positions is not None and tokens + max_tokens > limit.positions:
        return (
            f"and with sampling.max_tokens {max_tokens} more than the model's {limit.positions} positions: lower "
            "sampling.max_tokens, or leave such rows out with data.truncation drop."
        )
    return ""


def collate_prompts(rows: Sequence[Sequence[Example]]) -> Batch:
    """Prompts, for which answers are still to be generated."""
    prompts = [e.values["prompt"] for row in rows for e in row]
    return Batch({}, {"prompts": prompts}, {}, len(prompts))


def prompts_of(batch: Batch) -> list[Prompt]:
    """The prompts of a batch that `collate_prompts` made; none of a filler."""
    return [] if batch.filler else list(batch.fields["prompts"])


def _prompt(sample: Sample) -> tuple[Message, ...]:
    if not sample.asked:
        raise DataError(f"{sample.origin}: there is no prompt: no message before the assistant's.")
    return sample.asked
