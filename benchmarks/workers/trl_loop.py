"""TRL's SFTTrainer on given batches: trl_loop.py CHECKPOINT BATCHES FOLDER. The same precision, optimizer and order."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bare import LR, lora_config
from datasets import Dataset
from gate import Gate
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Gated(TrainerCallback):
    def __init__(self) -> None:
        self._gate = Gate()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if logs and "loss" in logs:
            self._gate.loss(float(logs["loss"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._gate.step()


def main(checkpoint: str, batches: str, folder: str) -> None:
    found = json.loads(Path(batches).read_text(encoding="utf-8"))
    settings = SFTConfig(
        output_dir=folder,
        max_steps=len(found),
        per_device_train_batch_size=len(found[0]),
        learning_rate=LR,
        weight_decay=0.0,
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32", local_files_only=True),
        args=settings,
        train_dataset=Dataset.from_list([row for rows in found for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(checkpoint, local_files_only=True),
        peft_config=lora_config(),
        callbacks=[Gated()],
    )
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
