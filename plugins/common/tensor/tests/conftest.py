"""Tiny random models of real architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SIZES),
    "qwen2": ("Qwen2Config", SIZES),
    "qwen3": ("Qwen3Config", {**SIZES, "head_dim": 8}),
    "qwen2-moe": ("Qwen2MoeConfig", {**SIZES, **EXPERTS}),
    "gpt2": ("GPT2Config", {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "gemma2": ("Gemma2Config", {**SIZES, "head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 0.5}),
    "gemma3": ("Gemma3TextConfig", {**SIZES, "head_dim": 8, "sliding_window": 4}),
    "mistral": ("MistralConfig", {**SIZES, "head_dim": 8, "sliding_window": 4}),
    "phi3": ("Phi3Config", SIZES),
    "gpt-oss": ("GptOssConfig", {**SIZES, **EXPERTS, "head_dim": 8, "sliding_window": 4, "num_local_experts": 4}),
    "cohere2": ("Cohere2Config", {**SIZES, "head_dim": 8, "sliding_window": 4}),
    "granite": ("GraniteConfig", {**SIZES, "logits_scaling": 8.0}),
    "cohere": ("CohereConfig", {**SIZES, "logit_scale": 0.0625}),
    "falcon-h1": (
        "FalconH1Config",
        {
            **SIZES,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "lm_head_multiplier": 0.5,
        },
    ),
    "mamba": ("MambaConfig", {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "qwen3-next": (
        "Qwen3NextConfig",
        {**SIZES, **EXPERTS, **LINEAR, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
    ),
    "bloom": ("BloomConfig", {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
}


@pytest.fixture
def tiny() -> Callable[..., nn.Module]:
    """tiny(architecture, auto="AutoModelForCausalLM", seed=0, **config) -> a random model in training mode."""

    def make(
        architecture: str = "llama", auto: str = "AutoModelForCausalLM", seed: int = 0, **config: Any
    ) -> nn.Module:
        name, sizes = CONFIGS[architecture]
        implementation = config.pop("attention", None)
        settings = getattr(transformers, name)(**{**sizes, **config})
        extra = {} if implementation is None else {"attn_implementation": implementation}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return getattr(transformers, auto).from_config(settings, **extra).train()

    return make
