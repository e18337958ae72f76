"""Behaviour of templates: their tokens are the tokenizer's own rendering, and only what the assistant says is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tk.contracts import Encoding, Template
from tk.sample import Message, Sample
from tk.testing.need import need

Render = Callable[[Sample, bool], Sequence[int]]
"""Sample and whether the assistant is to speak next -> the ids that the checkpoint itself would give."""


def template_samples() -> list[Sample]:
    """Conversations of the usual shapes: one turn, several, with a system message, other scripts, code, line breaks."""
    user, assistant = "user", "assistant"
    talks = (
        [(user, "Hi"), (assistant, "Hello.")],
        [("system", "Be brief."), (user, "Name a colour."), (assistant, "Blue.")],
        [(user, "2 + 2?"), (assistant, "4"), (user, "And 3 + 3?"), (assistant, "6")],
        [(user, "Grüße, 漢字, 🙂"), (assistant, "Ünïcödé\tand\n\ttabs")],
        [(user, "Write code.\n\nIn Python."), (assistant, "```python\nprint('x')  \n```")],
    )
    return [
        Sample(messages=tuple(Message(role, text) for role, text in talk), origin=f"talk:{index}")
        for index, talk in enumerate(talks)
    ]


def check_template(
    template: Template, tokenizer: Any, samples: Sequence[Sample] | None = None, render: Render | None = None
) -> list[Encoding]:
    """Compare each sample's ids with the tokenizer's own rendering, and check weights, generation, `extend` and `read`.

    tokenizer: has `apply_chat_template` and `decode` (transformers' do). render: replaces the former as the oracle.
    """
    talks = template_samples() if samples is None else list(samples)
    oracle = render or (lambda sample, generation: _rendered(tokenizer, sample, generation))
    encodings = template.encode(talks)
    need(len(encodings) == len(talks), f"encode gave {len(encodings)} encodings for {len(talks)} samples")
    for sample, encoding in zip(talks, encodings, strict=True):
        _check_encoding(sample, encoding, list(oracle(sample, False)), tokenizer)
    _check_generation(template, talks, oracle)
    need(len(template.stop_ids()) > 0, "stop_ids is empty: nothing would end the assistant's turn")
    return encodings


def _check_encoding(sample: Sample, encoding: Encoding, wanted: list[int], tokenizer: Any) -> None:
    ids, weights = list(encoding.ids), list(encoding.weights)
    at = next((i for i, (a, b) in enumerate(zip(ids, wanted, strict=False)) if a != b), min(len(ids), len(wanted)))
    need(
        ids == wanted,
        f"{sample.origin}: the ids differ from the checkpoint's own at token {at}: "
        f"{tokenizer.decode(ids[at : at + 8])!r} and not {tokenizer.decode(wanted[at : at + 8])!r}",
    )
    need(len(ids) == len(weights), f"{sample.origin}: {len(ids)} ids and {len(weights)} weights")
    need(all(weight >= 0 for weight in weights), f"{sample.origin}: a weight is negative")
    trained = tokenizer.decode([i for i, weight in zip(ids, weights, strict=True) if weight > 0])
    for message in sample.messages:
        if message.role == "assistant":
            said = message.text.strip()
            need(said in trained, f"{sample.origin}: the assistant's {said!r} is not trained (trained: {trained!r})")
        elif message.text.strip() not in "".join(m.text for m in sample.messages if m.role == "assistant"):
            need(message.text.strip() not in trained, f"{sample.origin}: what the {message.role} says is trained")


def _check_generation(template: Template, talks: Sequence[Sample], oracle: Render) -> None:
    prompts = [Sample(messages=talk.messages[:-1], tools=talk.tools, origin=talk.origin) for talk in talks]
    for prompt, encoding in zip(prompts, template.encode(prompts, generation=True), strict=True):
        need(list(encoding.ids) == list(oracle(prompt, True)), f"{prompt.origin}: the prompt for generation differs")
        need(not any(encoding.weights), f"{prompt.origin}: a prompt for generation has trained tokens")
        longer = template.extend([*encoding.ids, *template.stop_ids()[:1]], [Message("user", "Go on.")])
        start = [*encoding.ids, *template.stop_ids()[:1]]
        need(list(longer.ids[: len(start)]) == start, f"{prompt.origin}: extend rendered earlier tokens again")
        need(len(longer.ids) > len(start), f"{prompt.origin}: extend added nothing")
    asked, whole = template.encode(prompts, generation=True), template.encode(talks)
    for talk, before, all_of_it in zip(talks, asked, whole, strict=True):
        _check_read(template, talk, list(all_of_it.ids)[len(before.ids) :])


def _check_read(template: Template, talk: Sample, answer: Sequence[int]) -> None:
    """What was said is read from its tokens, up to and with the one that ends the turn."""
    end = next((at for at, token in enumerate(answer) if token in template.stop_ids()), len(answer) - 1)
    last, found = talk.messages[-1], template.read(answer[: end + 1])
    need(
        found.role == "assistant" and found.text.strip() == last.text.strip(),
        f"{talk.origin}: the answer {last.text!r} is read as {found.text!r}",
    )
    reader, so_far = template.reader(), ""
    for token in answer[:end]:
        so_far += reader.push([token])
        need(
            found.text.startswith(so_far), f"{talk.origin}: {so_far!r} is told of the answer {found.text!r} on its way"
        )


def _rendered(tokenizer: Any, sample: Sample, generation: bool) -> Sequence[int]:
    messages = [{"role": message.role, "content": message.text} for message in sample.messages]
    tools = [dict(tool) for tool in sample.tools] or None
    ids: Sequence[int] = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=True, add_generation_prompt=generation, return_dict=False
    )
    return ids
