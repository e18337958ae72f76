"""The family finds, loads and saves its checkpoints; the template renders as the checkpoint's own Jinja template does."""

import pytest
import torch
from acme_tk_model.architecture import AcmeForCausalLM, register
from transformers import AutoModelForCausalLM

from tk.families import family_of
from tk.plugins import load
from tk.testing import check_template
from tk_conformance.tiny import tiny_checkpoint

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    register()
    return tiny_checkpoint(tmp_path_factory.mktemp("acme") / "checkpoint", "acme", vocab=300)


@pytest.fixture(scope="module")
def loaded(checkpoint, tk_component):
    family = tk_component("models", "acme").build()
    return family.load(family.resolve(str(checkpoint)))


def test_a_checkpoint_finds_its_family(checkpoint):
    assert family_of(load(), str(checkpoint)).name == "acme"


def test_the_architecture_differs_from_llama_as_it_says(loaded):
    assert type(loaded.module) is AcmeForCausalLM
    names = dict(loaded.module.named_parameters())
    assert {"model.layers.0.mlp.up_proj.bias", "model.layers.0.self_attn.q_proj.bias"} <= set(names)
    x = torch.tensor([-2.0, 0.0, 3.0])
    assert loaded.module.model.layers[0].mlp.act_fn(x).tolist() == [0.0, 0.0, 9.0]


def test_what_is_saved_opens_in_plain_transformers_with_equal_logits(loaded, tk_component, tmp_path):
    tk_component("models", "acme").build().save(loaded, tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.arange(3, 20)[None]
    assert torch.equal(again(ids).logits, loaded.module(ids).logits)


def test_the_template_is_the_jinja_template_of_the_format(loaded, tk_component):
    loaded.tokenizer.chat_template = CHAT_TEMPLATE
    template = tk_component("templates", "acme-chat").build(tokenizer=loaded.tokenizer)
    check_template(template, loaded.tokenizer)
    assert template.stop_ids()[0] == loaded.tokenizer.convert_tokens_to_ids("<|endoftext|>")
