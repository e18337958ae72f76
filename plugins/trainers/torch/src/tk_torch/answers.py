"""What the model makes of held-out rows, before and after training: its answers, its scores, or the nearest passages."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from tk.compose import Plan
from tk.contracts import Encoding, Head, Medium, Pass, Request, Session, Stat
from tk.errors import TkWarning
from tk.sample import Sample, sequence_names
from tk_data.prepare import EvalPrompt
from tk_torch.assemble import Parts
from tk_torch.seeds import full_state, set_full_state
from tk_torch.session import cannot_follow

AMONG = 100
"""Held-out passages among which the nearest to a query is looked for."""
SIDE = 240
"""Pixels of the longer side of a picture that is shown."""


def refusal(plan: Plan, parts: Parts) -> str:
    """Why nothing can be shown in this run; "" where it can."""
    kind = parts.policy.head.kind
    if kind not in SHOWN:
        return f"a model with a {kind} head answers nothing"
    if not len(parts.data.eval):
        return "no row is held out"
    if kind == "none" and not all(row.passages for row in islice(parts.data.eval_rows(), AMONG)):
        return "there are held-out rows without a passage to be found"
    if kind != "lm":
        return ""
    if why := cannot_follow(plan):
        return f"the engine {plan.one('engine').name}: {why}"
    if not parts.data.eval_prompts(1):
        return "no held-out row has an assistant's turn"
    return ""


def answers(plan: Plan, parts: Parts, session: Session, *, pictures: bool = True) -> list[dict[str, Any]]:
    """Prompt, reference and answer for the first `eval.generate` held-out rows, on rank 0. Every rank calls it."""
    if refusal(plan, parts):
        return []
    count = plan.config.eval.generate
    found = SHOWN[parts.policy.head.kind](plan, parts, session, count)
    return [record | ({"pictures": _seen(parts, media)} if pictures and media else {}) for record, media in found]


Found = list[tuple[dict[str, Any], Sequence[Medium]]]


def _generated(plan: Plan, parts: Parts, session: Session, count: int) -> Found:
    """Greedy answers by the run's engine on rank 0, so that two calls compare."""
    sampling = replace(plan.config.sampling, max_tokens=plan.config.eval.max_new_tokens, temperature=0.0, n=1)
    prompts, encodings = _with_room(parts, count) if session.world.rank == 0 else ([], [])
    stop_ids, streams = parts.template.stop_ids(), full_state(session.world.device)
    try:
        found = session.generate([Request(e.ids, sampling, stop_ids, e.media) for e in encodings])
    finally:
        set_full_state(streams, session.world.device)
    return [
        (_record(prompt.sample, prompt.reference.text, completions[0].text), encoding.media)
        for prompt, completions, encoding in zip(prompts, found, encodings, strict=True)
    ]


def _with_room(parts: Parts, count: int) -> tuple[list[EvalPrompt], list[Encoding]]:
    """The first held-out prompts after which the model has a position left, and their tokens."""
    prompts = parts.data.eval_prompts(count)
    encodings = parts.template.encode([prompt.sample for prompt in prompts], generation=True)
    most = parts.policy.max_length
    pairs = [(p, e) for p, e in zip(prompts, encodings, strict=True) if most is None or len(e.ids) < most]
    fit = {prompt.sample.origin for prompt, _ in pairs}
    for prompt in prompts:
        if prompt.sample.origin not in fit:
            warnings.warn(
                f"eval.generate: {prompt.sample.origin} is not shown: its prompt fills the model's {most} positions.",
                TkWarning,
                stacklevel=1,
            )
    return [prompt for prompt, _ in pairs], [encoding for _, encoding in pairs]


def _scored(plan: Plan, parts: Parts, session: Session, count: int) -> Found:
    """Labels or numbers, those of both answers of a pair."""
    head, found = parts.policy.head, []
    for sample, media, values in _measured(parts, session, "score", count):
        told = [_reading(row, head) for row in values]
        if len(told) > 1:
            told = [f"{name}: {text}" for name, text in zip(sequence_names(sample, len(told)), told, strict=True)]
        found.append((_record(sample, _label(sample.label, head), "\n".join(told)), media))
    return found if session.world.rank == 0 else []


def _nearest(plan: Plan, parts: Parts, session: Session, count: int) -> Found:
    """The passage that is nearest to each query, among those that answer the first held-out queries."""
    rows = list(_measured(parts, session, "pooled", max(AMONG, count)))
    passages = torch.stack([values[1] for _, _, values in rows])
    found = []
    for sample, media, values in rows[:count]:
        cosines = passages @ values[0]
        best = int(cosines.argmax())
        told = f"{rows[best][0].passages[0]}  (cosine {float(cosines[best]):.3f}, among {len(rows)})"
        found.append((_record(sample, sample.passages[0], told), media))
    return found if session.world.rank == 0 else []


def _measured(
    parts: Parts, session: Session, stat: str, count: int
) -> Iterator[tuple[Sample, Sequence[Medium], Tensor]]:
    """The first held-out rows, with their media and the statistic of each of their sequences."""
    samples = list(islice(parts.data.eval_rows(), count))
    layout = replace(parts.layout, packing=False)
    asked = Pass((Stat(stat, role=parts.first),), parts.first, grad=False)
    for sample, examples in zip(samples, parts.method.encode(samples, parts.template, parts.data.limit), strict=True):
        batch = parts.method.collate([[example] for example in examples], layout)
        (outputs,) = session.score([batch], [asked])
        yield sample, [medium for example in examples for medium in example.media], outputs[parts.first][stat].cpu()


def _reading(values: Tensor, head: Head) -> str:
    """What a row of a score head says, in words."""
    if head.problem == "single_label_classification":
        best = int(values.argmax())
        return f"{head.labels[best]} ({float(values.softmax(0)[best]):.0%})"
    if head.problem == "multi_label_classification":
        held = [f"{n} ({float(p):.0%})" for n, p in zip(head.labels, values.sigmoid(), strict=True) if p > 0.5]
        return ", ".join(held) or "none"
    return ", ".join(f"{name} {float(value):.3f}" for name, value in zip(head.labels, values, strict=True))


def _label(label: Any, head: Head) -> str | None:
    """A row's label, classes by their names; None where it has none."""
    if label is None:
        return None
    of_classes = head.problem in ("single_label_classification", "multi_label_classification")
    each = label if isinstance(label, (list, tuple)) else [label]
    return ", ".join(head.labels[v] if of_classes and isinstance(v, int) else str(v) for v in each) or "none"


def _record(sample: Sample, reference: str | None, answer: str) -> dict[str, Any]:
    messages = sample.messages[: sample.shared] if sample.rejected else sample.messages
    prompt = [{"role": message.role, "content": message.text} for message in messages]
    return {"prompt": prompt or sample.text, "reference": reference, "answer": answer}


def _seen(parts: Parts, media: Sequence[Medium]) -> list[str]:
    """Pictures as the model sees them, small, as data URLs."""
    processor = parts.policy.media
    made = [processor.seen(medium, SIDE) for medium in media] if processor else []
    return [f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in made if png]


SHOWN = {"lm": _generated, "score": _scored, "none": _nearest}
"""What is shown of held-out rows, by the kind of the model's head."""


def compared(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As run.json holds them: prompt, reference, before, after, and pictures where there are any."""
    return [
        {
            "prompt": new["prompt"],
            "reference": new["reference"],
            "before": old["answer"],
            "after": new["answer"],
            **({"pictures": new["pictures"]} if "pictures" in new else {}),
        }
        for old, new in zip(before, after, strict=False)
    ]
