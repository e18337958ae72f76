"""Writes what examples/digits/train.yaml needs: scikit-learn's handwritten digits as pictures with questions, and a
random Qwen2-VL of 0.3 million parameters over bytes. `python examples/digits/make.py [FOLDER]` (runs/digits-data)"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

SIDE = 56
"""Pixels of a picture: two by two tokens."""
HELD_OUT = 297
QUESTION = "Which digit?"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VISION = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}"
    "{% else %}<|vision_start|><|{{ p['type'] }}_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, and those of turns and pictures."""
    words = [*SPECIAL, *VISION, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in (*SPECIAL, *VISION)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def write_model(folder: Path) -> None:
    words = tokenizer()
    words.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=SIDE * SIDE, max_pixels=SIDE * SIDE).save_pretrained(folder)
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    ids = [words.convert_tokens_to_ids(f"<|{name}|>") for name in names]
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
            "tie_word_embeddings": True,
        },
        vision_config={"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2},
        image_token_id=ids[0],
        video_token_id=ids[1],
        vision_start_token_id=ids[2],
        vision_end_token_id=ids[3],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)


def write_rows(folder: Path) -> None:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for name, chosen in (("train", order[HELD_OUT:]), ("test", order[:HELD_OUT])):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for i in chosen:
                picture = Image.fromarray((digits.images[i] * 15.9375).astype(np.uint8))
                picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / "pictures" / f"{i}.png")
                asked = [{"type": "image", "image": f"pictures/{i}.png"}, {"type": "text", "text": QUESTION}]
                answer = str(digits.target[i])
                messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
                file.write(json.dumps({"messages": messages, "solution": answer}) + "\n")


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/digits-data")
    write_model(place / "model")
    write_rows(place)
    print(f"wrote {place}")
