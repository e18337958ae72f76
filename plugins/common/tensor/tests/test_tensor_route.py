"""The way to a model's logits gives the model's own logits, for every architecture and below every adapter."""

from __future__ import annotations

from collections.abc import Callable

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, XLMRobertaConfig

from tk.contracts import Stat
from tk_tensor.head import Projection, statistics
from tk_tensor.packing import probe_packing
from tk_tensor.probe import at_rest
from tk_tensor.route import Route, route_of

Make = Callable[..., nn.Module]
IDS = torch.randint(1, 96, (2, 9), generator=torch.Generator().manual_seed(3))
SELECT = torch.tensor([2, 3, 8, 9, 16])


def through(route: Route, module: nn.Module) -> Tensor:
    """Logits at SELECT by the route."""
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "position_ids": torch.arange(9).expand(2, -1)}
    if route.decoder is None:
        return route.logits(module, inputs, SELECT)
    return route.projection(module)(route.hidden(module, inputs)[SELECT])


def own(module: nn.Module) -> Tensor:
    logits = module(input_ids=IDS, use_cache=False).logits
    return logits[:, -9:].reshape(-1, logits.shape[-1])[SELECT]


ARCHITECTURES = ["llama", "qwen2", "qwen2-moe", "gpt2", "gemma2", "granite", "cohere", "falcon-h1", "mamba", "bloom"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_decoder_and_head_are_found_with_scale_and_soft_cap(tiny: Make, architecture: str) -> None:
    model = tiny(architecture).eval()
    route = route_of(model)
    assert route.decoder is not None
    torch.testing.assert_close(through(route, model), own(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "lm_head"], ["embed_tokens", "q_proj"]])
def test_they_are_found_below_an_adapter_and_gradients_are_the_models(tiny: Make, targets: list[str]) -> None:
    config = peft.LoraConfig(target_modules=targets, r=2, init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny("llama", tie_word_embeddings=False), config)
    route = route_of(model)
    assert route.decoder is not None
    trained = [p for p in model.parameters() if p.requires_grad]
    logits = own(model)
    wanted = torch.autograd.grad(torch.log_softmax(logits, -1)[:, 7].sum(), trained)
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    hidden = route.hidden(model, inputs)[SELECT]
    found = statistics(route.projection(model), hidden, torch.full((5,), 7), [Stat("logps")], chunk=2)["logps"]
    torch.testing.assert_close(found, torch.log_softmax(logits, -1)[:, 7], rtol=1e-5, atol=1e-5)
    for one, other in zip(torch.autograd.grad(found.sum(), trained), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_a_tuner_that_stands_outside_of_the_decoder_is_run_as_a_whole(tiny: Make, kind: str) -> None:
    config = {
        "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }[kind]
    model = peft.get_peft_model(tiny("llama"), config).eval()
    route = route_of(model)
    assert route.decoder is None
    found = route.logits(model, {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, SELECT)
    wanted = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, -9:].flatten(0, 1)[SELECT]
    torch.testing.assert_close(found, wanted)
    found.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


class Shifted(nn.Module):
    """A model whose logits are not head(hidden): a bias that no config field tells of."""

    def __init__(self, inner: nn.Module, keeps: bool) -> None:
        super().__init__()
        self.inner, self.keeps = inner, keeps
        self.config = inner.config
        self.base_model = inner.base_model
        self.register_buffer("bias", torch.linspace(0, 3, 96))

    def get_input_embeddings(self) -> nn.Module:
        return self.inner.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.inner.get_output_embeddings()

    def forward(self, input_ids: Tensor, logits_to_keep: int | Tensor = 0, **inputs: object) -> object:
        keep = logits_to_keep if self.keeps else 0
        out = self.inner(input_ids=input_ids, logits_to_keep=keep, **inputs)
        out.logits = out.logits + self.bias
        return out


@pytest.mark.parametrize("keeps", [True, False])
def test_logits_that_no_scale_explains_are_taken_from_the_model_itself(tiny: Make, keeps: bool) -> None:
    model = Shifted(tiny("llama"), keeps).eval()
    route = route_of(model)
    assert (route.decoder, route.keep) == (None, keeps)
    torch.testing.assert_close(through(route, model), own(model))


def test_logits_of_a_whole_model_need_no_projection() -> None:
    logits = torch.randn(4, 9)
    found = statistics(Projection(None), logits, torch.arange(4), [Stat("logps")], chunk=2)["logps"]
    torch.testing.assert_close(found, torch.log_softmax(logits, -1)[range(4), range(4)])


def test_on_the_meta_device_parts_are_found_without_a_forward(tiny: Make) -> None:
    with torch.device("meta"):
        model = tiny("granite")
    route = route_of(model)
    assert (route.decoder, route.head) == ("model", "lm_head")


def test_probing_leaves_the_model_as_it_was(tiny: Make) -> None:
    model = tiny("llama")
    model.model.layers[0].eval()
    before = {name: m.training for name, m in model.named_modules()}
    state = torch.get_rng_state()
    route_of(model), probe_packing(model)
    assert {name: m.training for name, m in model.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), state)
    with at_rest(model):
        assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "architecture", ["llama", "qwen2", "qwen3", "qwen2-moe", "gpt2", "gemma3", "granite", "cohere"]
)
def test_attention_models_keep_packed_samples_apart(tiny: Make, architecture: str, attention: str) -> None:
    assert probe_packing(tiny(architecture, attention=attention))


@pytest.mark.parametrize("architecture", ["mamba", "qwen3-next", "falcon-h1", "bloom"])
def test_models_that_leak_between_packed_samples_are_found_out(tiny: Make, architecture: str) -> None:
    assert not probe_packing(tiny(architecture))


def test_prompt_tuning_does_not_pack(tiny: Make) -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    assert not probe_packing(peft.get_peft_model(tiny("llama"), config))


def test_half_precision_models_pack(tiny: Make) -> None:
    assert probe_packing(tiny("llama").bfloat16())
    assert not probe_packing(tiny("qwen3-next").bfloat16())


@pytest.mark.parametrize(("architecture", "packs"), [("llama", True), ("mamba", False), ("qwen3-next", False)])
def test_a_plan_without_weights_tells_from_the_layers(tiny: Make, architecture: str, packs: bool) -> None:
    with torch.device("meta"):
        model = tiny(architecture)
    assert probe_packing(model) is packs


SMALL = XLMRobertaConfig(
    vocab_size=96, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, pad_token_id=1
)


@torch.no_grad()
def test_an_encoder_that_counts_positions_in_its_own_way_does_so() -> None:
    """Its positions begin after that of padding; and its classifier's head picks the first token of a sequence itself."""
    inputs = {"input_ids": IDS + 2, "attention_mask": torch.ones_like(IDS)}
    numbered = inputs | {"position_ids": torch.arange(9).expand(2, -1)}
    model = AutoModel.from_config(SMALL).eval()
    expected = model(**inputs).last_hidden_state.flatten(0, 1)
    torch.testing.assert_close(route_of(model).hidden(model, numbered), expected)
    classifier = AutoModelForSequenceClassification.from_config(SMALL).eval()
    route = route_of(classifier)
    assert route.whole_scores
    torch.testing.assert_close(route.scores(classifier, numbered), classifier(**inputs).logits)
