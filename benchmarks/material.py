"""What the training benchmarks run on: rows made of the chatterbot corpus (BSD-3-Clause), and the checkpoint."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from common import MODEL, WORKERS, environment

from tk_chatterbot.corpus import Chatterbot
from tk_chatterbot.options import ChatterbotOptions

SMALL_LAYERS = 10
TEMPLATE_TOKENS = 32
"""What the chat template adds to a prompt."""
PROMPT_WORDS = 260
"""About 400 tokens with the chat template's own."""


def checkpoint(folder: Path, small: bool = False) -> Path:
    """The checkpoint that `tk` uses for the model, or the same cut to its first layers."""
    command = [sys.executable, str(WORKERS / "checkpoint.py"), MODEL]
    if small:
        command += [str(folder / "small"), str(SMALL_LAYERS)]
    made = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    return Path(made.stdout.strip().splitlines()[-1])


def short(path: Path, count: int) -> Path:
    """Chat rows as the corpus has them: one short question, one short answer."""
    pairs = [pair for pair in _pairs() if sum(len(text.split()) for text in pair) <= 40]
    return _write(path, [pairs[i % len(pairs)] for i in range(count)])


def prompt_heavy(path: Path, count: int) -> Path:
    """Notes of about 400 tokens and a question, with an answer of about 20 tokens."""
    draw = random.Random(0)
    pairs = _pairs()
    said = [text for pair in pairs for text in pair]
    answers = [pair for pair in pairs if 12 <= len(pair[1].split()) <= 17]
    rows = []
    for i in range(count):
        question, answer = answers[i % len(answers)]
        notes = " ".join(draw.choices(said, k=200)).split()[: PROMPT_WORDS - len(question.split())]
        rows.append((f"Notes: {' '.join(notes)}\n\nQuestion: {question}", answer))
    return _write(path, rows)


def pairs(path: Path, count: int, checkpoint: Path) -> Path:
    """Preference pairs: a prompt of about 448 tokens, answers of about 64 each, cut by the checkpoint's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    draw = random.Random(0)
    said = [text for pair in _pairs() for text in pair]

    def text(tokens: int) -> str:
        words = " ".join(draw.choices(said, k=tokens))
        return str(tokenizer.decode(tokenizer(words, add_special_tokens=False)["input_ids"][:tokens]))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            row = {"prompt": text(448 - TEMPLATE_TOKENS), "chosen": text(62), "rejected": text(62)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def prompts(count: int, checkpoint: Path) -> list[str]:
    """Texts of about 200 tokens with the chat template's own, that ask for long answers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    draw = random.Random(0)
    said = [text for pair in _pairs() for text in pair]
    asked = "Write a very long story in which all of these words are said:"

    def text(tokens: int) -> str:
        words = " ".join(draw.choices(said, k=tokens))
        return str(tokenizer.decode(tokenizer(words, add_special_tokens=False)["input_ids"][:tokens]))

    return [f"{asked} {text(200 - TEMPLATE_TOKENS - 16)}" for _ in range(count)]


def _pairs() -> list[tuple[str, str]]:
    opened = Chatterbot(ChatterbotOptions()).open()
    turns = [[m["content"] for m in opened[i].data["messages"][:2]] for i in range(len(opened))]
    pairs = [(question, answer) for question, answer in turns]
    random.Random(0).shuffle(pairs)
    return pairs


def _write(path: Path, pairs: list[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for question, answer in pairs:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path
