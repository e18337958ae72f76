"""A tiny InternVL: tokens, tiles, log-probs in every layout, answers and saved checkpoints are transformers' own."""

import pytest
from acme_tk_internvl.family import InternVL
from tokenizers import AddedToken
from transformers import InternVLConfig
from transformers.models.internvl.processing_internvl import InternVLProcessor

from tk_conformance.tiny import tiny_tokenizer
from tk_conformance.vision import (
    check_generation,
    check_idle,
    check_inputs,
    check_log_probs,
    check_saved,
    conversations,
    released_processor,
    write_pictures,
    write_vision_checkpoint,
)
from tk_jinja.template import JinjaTemplate
from tk_transformers.engine import TransformersEngine
from tk_transformers.options import TransformersOptions

TEMPLATE = (  # as published with OpenGVLab/InternVL3-1B-hf, without tools and its default system message
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
SIDE = 28
IMAGES = {
    "image_processor_type": "GotOcr2ImageProcessor",
    "size": {"height": SIDE, "width": SIDE},
    "min_patches": 1,
    "max_patches": 4,
    "crop_to_patches": True,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": [SIDE, SIDE],
    "patch_size": [7, 7],
}
TEXT = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("internvl")
    tokenizer = tiny_tokenizer(300)
    names = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
    marks = [AddedToken(mark, special=True, normalized=False) for mark in names.values()]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer._set_model_specific_special_tokens({f"{name}_token": mark for name, mark in names.items()})
    tokenizer.chat_template = TEMPLATE
    config = InternVLConfig(
        vision_config=VISION,
        text_config={**TEXT, "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    write_vision_checkpoint(folder / "model", config, tokenizer, {"preprocessor_config.json": IMAGES})
    model = InternVL().load(str(folder / "model"))
    processor = released_processor(InternVLProcessor, folder / "model", model.tokenizer, image_seq_length=4)
    samples = conversations(write_pictures(folder))
    return model, JinjaTemplate(tokenizer=model.tokenizer, media=model.media), processor, samples


def test_tokens_and_tiles(made):
    _, template, _, samples = made
    lengths = {medium.length for encoding in template.encode(samples) for medium in encoding.media}
    assert len(lengths) > 1, "the pictures have one tile each"
    check_inputs(*made)


def test_log_probs_in_every_layout(made):
    check_log_probs(*made)


def test_a_batch_without_pictures(made):
    model, template, _, samples = made
    check_idle(model, template, samples)


def test_answers(made):
    engine = TransformersEngine(TransformersOptions(), model=made[0])
    check_generation(engine, *made)


def test_what_is_saved_opens_elsewhere(made, tmp_path):
    model, _, processor, samples = made
    check_saved(InternVL(), model, processor, samples[1], tmp_path / "saved")
