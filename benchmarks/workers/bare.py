"""What the bare scripts share: transformers and peft without anything around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

RANK, LR = 16, 1e-4


def lora_model(path: str) -> Any:
    """The checkpoint with adapters on all linear layers but the head."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True)
    return get_peft_model(model, lora_config()).train()


def lora_config() -> LoraConfig:
    return LoraConfig(task_type=TaskType.CAUSAL_LM, r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")


def padded(rows: Sequence[dict[str, Any]], pad_id: int) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)

    def block(values: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([v + [fill] * (width - len(v)) for v in values])

    return {
        "input_ids": block([row["input_ids"] for row in rows], pad_id),
        "attention_mask": block([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": block([row["labels"] for row in rows], -100),
    }


def supervised_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The vocabulary projection runs where a label stands only."""
    inner = model.get_base_model()
    states = inner.model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)[0]
    targets = F.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    kept = targets != -100
    return F.cross_entropy(inner.lm_head(states[kept]), targets[kept])


def full_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """As transformers does it: logits of every position."""
    loss: Tensor = model(**batch, use_cache=False).loss
    return loss


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LR, weight_decay=0.0, fused=True)


def step(model: Any, optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    """Backward, clip to norm 1, update. Returns the loss."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()
