"""A bare script up to its first optimizer step: bare_first_step.py CHECKPOINT ROWS BATCH_SIZE."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bare import lora_model, optimizer_of, padded, step, supervised_loss
from transformers import AutoTokenizer


def tokenised(tokenizer: Any, messages: list[dict[str, str]]) -> dict[str, list[int]]:
    """Ids of the conversation; labels of the answer and of the token that ends it."""
    ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    end = len(ids) - ids[::-1].index(tokenizer.eos_token_id)
    labels = [-100] * len(prompt) + ids[len(prompt) : end] + [-100] * (len(ids) - end)
    return {"input_ids": ids, "labels": labels}


def main(checkpoint: str, rows: str, batch_size: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    lines = Path(rows).read_text(encoding="utf-8").splitlines()
    examples = [tokenised(tokenizer, json.loads(line)["messages"]) for line in lines]
    model = lora_model(checkpoint)
    optimizer = optimizer_of(model)
    loss = step(model, optimizer, supervised_loss(model, padded(examples[: int(batch_size)], tokenizer.pad_token_id)))
    done = {"at": time.monotonic(), "loss": loss}
    Path(os.environ["BENCH_DONE"]).write_text(json.dumps(done), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
