"""Adapters give equal outputs after save and load, in plain peft on the unchanged base, and merged."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from tk.contracts import Head, LoadedModel
from tk_auto.family import AutoFamily
from tk_conformance.tiny import tiny_checkpoint
from tk_lora.options import LoraOptions
from tk_lora.tuner import LoraTuner

IDS = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "gaussian-biases": {"init": "gaussian", "bias": "all"},
    "orthogonal": {"init": "orthogonal"},
    "pissa": {"init": "pissa"},
    "pissa-fast-rslora": {"init": "pissa_niter_4", "rslora": True},
    "pissa-dora": {"init": "pissa", "dora": True},
    "regex": {"targets": r".*\.(c_attn|q_proj)", "dropout": 0.5},
    "tokens": {"token_indices": [5, 6]},
}
LLAMA_ONLY: dict[str, dict[str, Any]] = {
    "olora": {"init": "olora"},
    "patterns": {"init": "pissa", "rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3.0}},
    "embeddings": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "some": {"targets": ["q_proj", "mlp.up_proj"], "exclude": ["layers.0.self_attn.q_proj"]},
    "first-layer": {"layers_to_transform": [0]},
}
CASES = [
    *(("llama", tied, name) for tied in (False, True) for name in [*VARIANTS, *LLAMA_ONLY]),
    *(("gpt2", True, name) for name in VARIANTS),
]


def options(name: str) -> LoraOptions:
    return LoraOptions(rank=4, **{**VARIANTS, **LLAMA_ONLY}[name])


def logits(module: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module(input_ids=IDS).logits
    return found


def trained(base: Path, tuner: LoraTuner) -> tuple[LoadedModel, dict[str, torch.Tensor]]:
    """A model whose adapter has moved away from its initial values, and its trained tensors."""
    model = AutoFamily().load(str(base))
    tuner.attach(model)
    with torch.no_grad():
        for parameter in model.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model, {name: p.detach().clone() for name, p in model.module.named_parameters() if p.requires_grad}


def keys(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


@pytest.mark.parametrize(("architecture", "tied", "variant"), CASES)
def test_outputs_are_equal_saved_loaded_and_merged(architecture: str, tied: bool, variant: str, tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", architecture, vocab=300, tie_word_embeddings=tied)
    tuner = LoraTuner(options(variant))
    model, weights = trained(base, tuner)
    tuned = logits(model.module)
    tuner.save(model, tmp_path / "adapter", weights)
    assert {f.name for f in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}

    plain = AutoModelForCausalLM.from_pretrained(base)
    assert not torch.allclose(logits(plain), tuned, atol=1e-2)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, tmp_path / "adapter")), tuned, rtol=0, atol=1e-5)
    assert PeftConfig.from_pretrained(tmp_path / "adapter").base_model_name_or_path == str(base)

    torch.manual_seed(99)  # another seed than at first: pissa_niter's decomposition differs
    again, fresh = AutoFamily().load(str(base)), LoraTuner(options(variant))
    fresh.attach(again)
    fresh.load(again, tmp_path / "adapter")
    torch.testing.assert_close(logits(again.module), tuned, rtol=0, atol=1e-5)
    own = dict(again.module.named_parameters())
    assert all(torch.equal(own[name], tensor) for name, tensor in weights.items())

    fresh.merge(again)
    torch.testing.assert_close(logits(again.module), tuned, rtol=0, atol=1e-5)
    assert set(again.module.state_dict()) == set(AutoModelForCausalLM.from_pretrained(base).state_dict())
    AutoFamily().save(again, tmp_path / "merged")
    assert keys(tmp_path / "merged") == keys(base)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), tuned, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["lora", "pissa", "embeddings"])
def test_an_adapter_loaded_and_saved_again_is_the_same(variant: str, tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", vocab=300)
    tuner = LoraTuner(options(variant))
    model, weights = trained(base, tuner)
    tuner.save(model, tmp_path / "first", weights)
    again, fresh = AutoFamily().load(str(base)), LoraTuner(options(variant))
    fresh.attach(again)
    fresh.load(again, tmp_path / "first")
    fresh.save(again, tmp_path / "second", weights)
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]


def test_the_value_head_is_trained_and_saved_with_the_adapter(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", vocab=300)
    tuner = LoraTuner(LoraOptions(rank=2))
    model = AutoFamily().load(str(base), head=Head("value"))
    tuner.attach(model)
    assert any("score.modules_to_save" in n for n, p in model.module.named_parameters() if p.requires_grad)
    weights = {n: torch.randn_like(p) for n, p in model.module.named_parameters() if p.requires_grad}
    tuner.save(model, tmp_path / "adapter", weights)
    tuner.load(model, tmp_path / "adapter")
    plain = PeftModel.from_pretrained(AutoFamily().load(str(base), head=Head("value")).module, tmp_path / "adapter")
    torch.testing.assert_close(logits(plain), logits(model.module), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["lora", "gaussian-biases", "orthogonal", "pissa", "dora"])
def test_an_adapter_that_changes_nothing_is_found_out(variant: str, tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", vocab=300, attention_dropout=0.5)
    tuner = LoraTuner(options(variant))
    model = AutoFamily().load(str(base))
    tuner.attach(model)
    assert not tuner.changes_output(model)
    with torch.no_grad(), warnings.catch_warnings():
        for name, parameter in model.module.named_parameters():
            if ".lora_B." in name:
                parameter.add_(1e-3)
    assert tuner.changes_output(model)
    assert not any(part.training for part in model.module.modules())
