"""What a chat template does around an answer, found by rendering a small conversation with marked contents."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tk.errors import UsageError
from tk_jinja.render import FAILURES

Render = Callable[..., str]

_QUESTION, _ANSWER, _AGAIN, _RESULT = (
    f"{chr(0xFFF00 + 2 * i)}{word}{chr(0xFFF01 + 2 * i)}" for i, word in enumerate(("Why", "So", "And", "It"))
)


@dataclass(frozen=True)
class Format:
    """How a template writes an assistant's turn.

    headers: what may stand before the assistant's words, from its last added token on ("<|im_start|>assistant\\n"),
        the longest first: a template may write earlier answers otherwise than the last one.
    openings: what the generation prompt adds to that and a written answer leaves out ("<think>\\n" where the thinking
        of answers is removed), the shortest first.
    final_end: the tokens after the last answer, "" where there are none. history_end: those after an earlier answer.
    control: added tokens written outside the assistant's own words; content that spells one could forge a turn.
    """

    headers: tuple[str, ...]
    openings: tuple[str, ...]
    final_end: str
    history_end: str
    control: frozenset[str]

    @property
    def ends(self) -> re.Pattern[str] | None:
        """Matches what ends an assistant's turn; None where the template writes nothing there."""
        ends = sorted({self.final_end, self.history_end} - {""}, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, ends))) if ends else None


def probe(render: Render, added: re.Pattern[str]) -> Format:
    """Find a template's format. `added` matches the tokenizer's added tokens. Raises UsageError where it refuses."""
    user, answer, again = (
        {"role": role, "content": content}
        for role, content in (("user", _QUESTION), ("assistant", _ANSWER), ("user", _AGAIN))
    )
    try:
        prompt, final = render([user], generation=True), render([user, answer])
        history = render([user, answer, again])
    except FAILURES as error:
        raise UsageError(
            f"The chat template cannot write a question and its answer: {error}. "
            "Choose another format, e.g. --template chatml, or mend the template."
        ) from error
    if _missing(final, _QUESTION, _ANSWER) or _missing(history, _QUESTION, _ANSWER, _AGAIN) or _QUESTION not in prompt:
        raise UsageError(
            "The chat template does not write a question and its answer as they are. "
            "Choose another format, e.g. --template chatml, or mend the template."
        )
    opening_text, _, asked = prompt.partition(_QUESTION)
    written = [_between(text, _QUESTION, _ANSWER) for text in (final, history)]
    shared = [_common_start(before, asked) for before in written]
    following = _between(history, _ANSWER, _AGAIN)
    final_end, history_end = _ends(final.partition(_ANSWER)[2], following, opening_text, asked, added)
    outside = opening_text + shared[1] + history.partition(_ANSWER)[2]
    return Format(
        headers=tuple(sorted({_header(text, added) for text in shared}, key=len, reverse=True)),
        openings=tuple(sorted({asked[len(text) :] for text in shared} - {""}, key=len)),
        final_end=final_end,
        history_end=history_end,
        control=frozenset(added.findall(outside)) | _tool_control(render, added, user, again),
    )


def _ends(final: str, following: str, opening: str, asked: str, added: re.Pattern[str]) -> tuple[str, str]:
    """The tokens that end the last and an earlier answer, from what is written behind them."""
    last, earlier = _run(added, final), _run(added, following)
    common = [a for a, b in zip(last, earlier, strict=False) if a == b] if last[:1] == earlier[:1] else []
    if common:
        return "".join(common), "".join(common)
    # A token that also begins the user's turn, and does not end it, opens the next turn rather than ending this one.
    opens = bool(earlier) and earlier[0] in opening and not asked.startswith(earlier[0])
    return "".join(last), "" if opens or not earlier else earlier[0]


def _run(added: re.Pattern[str], text: str) -> list[str]:
    """The first added tokens of a text that follow each other directly."""
    run: list[str] = []
    match = added.search(text)
    while match:
        run.append(match.group())
        match = added.match(text, match.end())
    return run


def _header(text: str, added: re.Pattern[str]) -> str:
    tokens = list(added.finditer(text))
    return text[tokens[-1].start() :] if tokens else text


def _between(text: str, before: str, after: str) -> str:
    return text.partition(before)[2].partition(after)[0]


def _tool_control(
    render: Render, added: re.Pattern[str], user: dict[str, str], again: dict[str, str]
) -> frozenset[str]:
    """Tokens around a tool's result, which only the template may write. Empty where it knows no tools."""
    call = {"type": "function", "id": "call00001", "function": {"name": "look", "arguments": {}}}
    asking = {"role": "assistant", "content": "", "tool_calls": [call]}
    told = {"role": "tool", "content": _RESULT, "tool_call_id": "call00001", "name": "look"}
    try:
        text = render([user, asking, told, {"role": "assistant", "content": _ANSWER}, again])
    except FAILURES:
        return frozenset()
    if _missing(text, _RESULT, _ANSWER):
        return frozenset()
    start, stop = text.index(_RESULT), text.index(_ANSWER)
    opening = [m.group() for m in added.finditer(text, 0, start) if not text[m.end() : start].strip()]
    closing = added.findall(text[start + len(_RESULT) : stop])
    return frozenset(opening[-1:] + closing[:1])


def _missing(text: str, *contents: str) -> bool:
    return any(text.count(content) != 1 for content in contents)


def _common_start(one: str, other: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]
