"""What a chat template does around an answer, found by rendering a small conversation with marked contents."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from tk.errors import UsageError

from tk_jinja.render import FAILURES, Chat

Render = Callable[..., str]

_QUESTION, _ANSWER, _AGAIN, _RESULT = ("\U000fff00Why\U000fff01", "\U000fff02So\U000fff03",
                                       "\U000fff04And\U000fff05", "\U000fff06It\U000fff07")  # fmt: skip


@dataclass(frozen=True)
class Format:
    """How a template writes an assistant's turn.

    header: what stands before the assistant's words, from its last added token on ("<|im_start|>assistant\\n").
    opening: what the generation prompt adds to that and a written answer leaves out ("<think>\\n" of a template that
        removes the thinking of answers), else "".
    final_end: the token after the last answer, "" where there is none. history_end: the one after an earlier answer.
    control: added tokens written outside the assistant's own words; content that spells one could forge a turn.
    """

    header: str
    opening: str
    final_end: str
    history_end: str
    control: frozenset[str]

    @property
    def ends(self) -> re.Pattern[str] | None:
        """Matches a token that ends an assistant's turn; None where the template writes none."""
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
    if _missing(final, _QUESTION, _ANSWER) or _missing(history, _ANSWER, _AGAIN) or _missing(prompt, _QUESTION):
        raise UsageError(
            "The chat template does not write a question and its answer as they are. "
            "Choose another format, e.g. --template chatml, or mend the template."
        )
    before = final[final.index(_QUESTION) + len(_QUESTION) : final.index(_ANSWER)]
    asked = prompt[prompt.index(_QUESTION) + len(_QUESTION) :]
    common = os.path.commonprefix([before, asked])
    tokens = [match.start() for match in added.finditer(common)]
    question = prompt[: prompt.index(_QUESTION)]
    after = history[history.index(_ANSWER) + len(_ANSWER) :]
    between = after[: after.index(_AGAIN)]
    final_end = _first(added, final[final.index(_ANSWER) + len(_ANSWER) :])
    history_end = _first(added, between)
    if history_end and history_end in question and history_end != final_end:
        history_end = ""  # it opens the next turn rather than ending this one
    outside = question + common + after
    return Format(
        header=common[tokens[-1] :] if tokens else common,
        opening=asked[len(common) :],
        final_end=final_end,
        history_end=history_end,
        control=frozenset(added.findall(outside)) | _tool_control(render, added, user, again),
    )


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
    before = list(added.finditer(text, 0, start))[-1:]
    return frozenset([m.group() for m in before if text[m.end() : start].isspace() or m.end() == start]
                     + added.findall(text[start + len(_RESULT) : stop])[:1])  # fmt: skip


def _missing(text: str, *contents: str) -> bool:
    return any(text.count(content) != 1 for content in contents)


def _first(added: re.Pattern[str], text: str) -> str:
    match = added.search(text)
    return match.group() if match else ""
