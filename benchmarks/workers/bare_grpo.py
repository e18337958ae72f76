"""A bare GRPO loop, one update a rollout: bare_grpo.py CHECKPOINT PROMPTS TOKENS GROUP.

transformers generates; the vocabulary projection runs on the answers only. PROMPTS: JSON, a list of steps of prompts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from bare import lora_model, optimizer_of, step
from gate import Gate
from letters import share
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer


def loss_of(model: Any, rows: Tensor, mask: Tensor, tokens: int, advantages: Tensor) -> Tensor:
    inner = model.get_base_model()
    states = inner.model(rows, attention_mask=mask, use_cache=False)[0][:, -tokens - 1 : -1]
    targets = rows[:, -tokens:]
    logps = -F.cross_entropy(inner.lm_head(states).flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    kept = mask[:, -tokens:]
    ratio = (logps - logps.detach()).exp()
    return -(ratio * advantages[:, None] * kept).sum() / kept.sum()


def main(checkpoint: str, file: str, tokens: int, group: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, padding_side="left")
    model = lora_model(checkpoint)
    optimizer = optimizer_of(model)
    gate = Gate()
    for prompts in json.loads(Path(file).read_text(encoding="utf-8")):
        given = tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in prompts],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        model.eval()
        with torch.no_grad():
            rows = model.generate(
                **given, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=tokens, num_return_sequences=group
            )
        model.train()
        rows = F.pad(rows, (0, given["input_ids"].shape[1] + tokens - rows.shape[1]), value=tokenizer.pad_token_id)
        answers = rows[:, -tokens:]
        ended = (answers == tokenizer.eos_token_id).int().cumsum(1)
        alive = (ended - (answers == tokenizer.eos_token_id).int()) == 0
        mask = torch.cat([given["attention_mask"].repeat_interleave(group, 0), alive.long()], 1)
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        rewards = torch.tensor([share(text) for text in texts]).view(-1, group)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
        gate.loss(step(model, optimizer, loss_of(model, rows, mask, tokens, advantages)))
        gate.step()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
