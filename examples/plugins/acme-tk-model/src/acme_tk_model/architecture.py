"""The architecture `acme`: Llama with the squared ReLU of Primer (arXiv 2109.08668, §3) and biases everywhere."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


class AcmeConfig(LlamaConfig):
    """Llama's config with other defaults."""

    model_type = "acme"
    hidden_act: str = "relu2"
    attention_bias: bool = True
    mlp_bias: bool = True


class AcmeForCausalLM(LlamaForCausalLM):
    """Everything that differs from Llama is in the config."""

    config_class = AcmeConfig


def register() -> None:
    """Tell transformers' Auto classes about the architecture. Registering twice is harmless."""
    AutoConfig.register(AcmeConfig.model_type, AcmeConfig, exist_ok=True)
    AutoModelForCausalLM.register(AcmeConfig, AcmeForCausalLM, exist_ok=True)
