"""TRL's DPOTrainer on given pairs: trl_dpo_loop.py CHECKPOINT PAIRS FOLDER. The same precision, optimizer and order."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bare import LR, lora_config
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl_loop import Gated


class Tokenised(DPOTrainer):
    """The pairs are tokens already."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


def main(checkpoint: str, file: str, folder: str) -> None:
    found = json.loads(Path(file).read_text(encoding="utf-8"))
    settings = DPOConfig(
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
        beta=0.1,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Tokenised(
        model=AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32", local_files_only=True),
        args=settings,
        train_dataset=Dataset.from_list([pair for pairs in found for pair in pairs]),
        processing_class=AutoTokenizer.from_pretrained(checkpoint, local_files_only=True),
        peft_config=lora_config(),
        callbacks=[Gated()],
    )
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
