"""TRL's GRPOTrainer, one update a rollout: trl_grpo_loop.py CHECKPOINT PROMPTS TOKENS GROUP FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bare import LR, lora_config
from datasets import Dataset
from letters import share
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from trl_loop import Gated


def letters(completions: Any, **_: Any) -> list[float]:
    return [share(completion[0]["content"]) for completion in completions]


def main(checkpoint: str, file: str, tokens: str, group: str, folder: str) -> None:
    found = json.loads(Path(file).read_text(encoding="utf-8"))
    settings = GRPOConfig(
        output_dir=folder,
        max_steps=len(found),
        per_device_train_batch_size=len(found[0]) * int(group),
        num_generations=int(group),
        max_completion_length=int(tokens),
        temperature=1.0,
        top_k=0,
        beta=0.0,
        learning_rate=LR,
        weight_decay=0.0,
        max_grad_norm=1.0,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = [{"prompt": [{"role": "user", "content": prompt}]} for prompts in found for prompt in prompts]
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32", local_files_only=True),
        reward_funcs=letters,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(checkpoint, local_files_only=True),
        peft_config=lora_config(),
        callbacks=[Gated()],
    )
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
