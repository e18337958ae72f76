"""Tiny LLaVAs of the three types, as folders like those that are published, and transformers' processors of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, processors
from transformers import (
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionProcessor,
    LlavaProcessor,
)

from tk.contracts import LoadedModel
from tk.sample import Sample
from tk_conformance.tiny import tiny_tokenizer
from tk_conformance.vision import conversations, released_processor, write_pictures, write_vision_checkpoint
from tk_jinja.template import JinjaTemplate
from tk_llava.family import Llava
from tk_text.testing import family_template

HERE = Path(__file__).parent
SIDE, PATCH = 28, 7
"""Of a tile: four by four patches."""

CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
SIGLIP = CLIP | {"model_type": "siglip_vision_model", "vision_use_head": False}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


@dataclass(frozen=True)
class Kind:
    """A type of LLaVA. files: the folder of its processor's files. opening: whether its tokenizer begins with <s>."""

    config: Callable[..., Any]
    processor: type
    vision: dict[str, Any]
    text: str
    template: Callable[[], str]
    opening: bool


def own(name: str) -> Callable[[], str]:
    return lambda: (HERE / "templates" / f"{name}.jinja").read_text("utf-8")


KINDS = {
    "llava": Kind(LlavaConfig, LlavaProcessor, CLIP, "llama", own("llava_1_5"), True),
    "llava_next": Kind(
        LlavaNextConfig, LlavaNextProcessor, CLIP, "mistral", lambda: family_template("llava_next"), True
    ),
    "llava_onevision": Kind(
        LlavaOnevisionConfig, LlavaOnevisionProcessor, SIGLIP, "qwen2", own("llava_onevision"), False
    ),
}


VARIANTS: dict[str, dict[str, Any]] = {
    "several layers": {"vision_feature_layer": [-3, -2]},
    "the last layer": {"vision_feature_layer": -1},
    "with the class token": {
        "vision_feature_select_strategy": "full",
        "processor": {"vision_feature_select_strategy": "full"},
    },
    "siglip": {
        "vision": SIGLIP,
        "vision_feature_select_strategy": "full",
        "vision_feature_layer": -1,
        "images": {
            "image_processor_type": "SiglipImageProcessor",
            "size": {"height": SIDE, "width": SIDE},
            "do_center_crop": False,
        },
        "processor": {"vision_feature_select_strategy": "full", "num_additional_image_tokens": 0},
    },
}
"""Ways to read a tower that configs allow; the last is that of LLaVA-Interleave."""


def files_of(kind: str) -> dict[str, Any]:
    """The JSON files of a processor, by their names."""
    folder = HERE / "processors" / kind
    return {path.name: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def tokenizer_of(kind: Kind) -> Any:
    """A token a byte, with the tokens of pictures; it begins each text with <s> where the published one does."""
    tokenizer = tiny_tokenizer(300)
    marks = [AddedToken(mark, special=True, normalized=False) for mark in ("<image>", "<video>", "<s>", "</s>")]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    if kind.opening:
        tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
        opening = [("<s>", tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", opening)
    tokenizer.chat_template = kind.template()
    return tokenizer


@dataclass(frozen=True)
class Made:
    """A checkpoint, loaded by us, and transformers' processor of it."""

    folder: Path
    model: LoadedModel
    template: JinjaTemplate
    processor: Any
    samples: list[Sample]
    kind: str


@pytest.fixture(scope="session", params=sorted(KINDS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=sorted(VARIANTS))
def variant(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """A LLaVA 1.5 whose tower is read in another way."""
    return make("llava", tmp_path, **VARIANTS[request.param])


def make(
    name: str, folder: Path, *, vision: Any = None, images: Any = None, processor: Any = None, **config: Any
) -> Made:
    """vision: another tower. images, processor: over the fields of the two files. config: further fields."""
    kind, files = KINDS[name], files_of(name)
    for file, changes in (("preprocessor_config.json", images), ("processor_config.json", processor)):
        files[file] |= changes or {}
    tokenizer = tokenizer_of(kind)
    pinpoints = files["preprocessor_config.json"].get("image_grid_pinpoints")
    settings = {"image_grid_pinpoints": pinpoints} if pinpoints else {}
    if "<video>" in tokenizer.chat_template:
        settings["video_token_index"] = tokenizer.convert_tokens_to_ids("<video>")
    made = kind.config(
        vision_config=vision or kind.vision,
        text_config={**TEXT, "model_type": kind.text, "vocab_size": len(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **settings,
        **config,
    )
    write_vision_checkpoint(folder / "model", made, tokenizer, files)
    model = Llava().load(str(folder / "model"))
    described = {key: value for key, value in files["processor_config.json"].items() if key != "processor_class"}
    processor = released_processor(kind.processor, folder / "model", model.tokenizer, **described)
    samples = conversations(write_pictures(folder))
    return Made(folder, model, JinjaTemplate(tokenizer=model.tokenizer, media=model.media), processor, samples, name)
