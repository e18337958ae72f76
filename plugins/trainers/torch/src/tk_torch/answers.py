"""The model's answers to held-out prompts, before and after training, through an engine that shares its module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tk.compose import Plan
from tk.contracts import Engine, Request, World
from tk.inference import default_engine
from tk_torch.assemble import Parts
from tk_torch.seeds import full_state, set_full_state


def refusal(plan: Plan, parts: Parts) -> str:
    """Why no answers can be shown in this run; "" where they can."""
    if "sharding" in plan.one("strategy").component.spec.supports:
        return "the strategy shards the weights, and the engine shares the trainer's module"
    if not parts.data.eval_samples(1):
        return "no held-out row has an assistant's turn"
    return ""


def answers(plan: Plan, parts: Parts, world: World) -> list[dict[str, Any]]:
    """Prompt, reference and answer for the first held-out prompts (rank 0); greedy, so that two calls compare."""
    if world.rank or refusal(plan, parts):
        return []
    prompts = parts.data.eval_samples(plan.config.eval.generate)
    sampling = replace(plan.config.sampling, max_tokens=plan.config.eval.max_new_tokens, temperature=0.0, n=1)
    encodings = parts.template.encode([prompt.sample for prompt in prompts], generation=True)
    stop_ids = parts.template.stop_ids()
    streams = full_state(world.device)
    engine: Engine = default_engine(plan).build(model=parts.policy)
    parts.scored.eval()
    try:
        with torch.no_grad():
            found = engine.generate([Request(e.ids, sampling, stop_ids, e.media) for e in encodings])
    finally:
        engine.close()
        parts.training_mode(parts.scored)
        set_full_state(streams, world.device)
    return [
        {"prompt": _plain(prompt.sample.messages), "reference": prompt.reference.text, "answer": completions[0].text}
        for prompt, completions in zip(prompts, found, strict=True)
    ]


def compared(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As run.json holds them: prompt, reference, before, after."""
    return [
        {"prompt": new["prompt"], "reference": new["reference"], "before": old["answer"], "after": new["answer"]}
        for old, new in zip(before, after, strict=False)
    ]


def _plain(messages: Sequence[Any]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in messages]
