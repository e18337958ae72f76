"""One forward for all passes of a batch: roles, gradients, adapters off, values, pooled states, packing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor, nn

from tk.contracts import Example, Head, Layout, LoadedModel, Pass, Role, Stat
from tk.errors import TkError
from tk_tensor.collate import collate_tokens
from tk_tensor.scored import ScoredModel, build_scored

Make = Callable[..., nn.Module]
LOGPS = (Stat("logps"),)


class Adapter:
    """The part of a tuner that switches adapters off."""

    @contextmanager
    def adapter_off(self, module: Any) -> Iterator[None]:
        with module.disable_adapter():
            yield


def scored(models: dict[str, nn.Module], *roles: Role, chunk: int = 1024) -> ScoredModel:
    loaded = {name: LoadedModel(module, None, "") for name, module in models.items()}
    return build_scored(loaded, roles or (Role("policy"),), Adapter(), chunk)  # type: ignore[arg-type]


def lora(model: nn.Module, **config: Any) -> nn.Module:
    settings = peft.LoraConfig(
        target_modules="all-linear", r=2, init_lora_weights=False, task_type="CAUSAL_LM", **config
    )
    return peft.get_peft_model(model, settings)


def examples(*lengths: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    made = []
    for n in lengths:
        weights = (rng.random(n) < 0.6).astype(np.float32)
        made.append(Example(n, {"ids": rng.integers(1, 96, n).astype(np.int32), "weights": weights}, {}, ""))
    return made


def padded(rows: list[Example], side: Any = "right") -> tuple[Any, Any]:
    inputs, fields, _, _ = collate_tokens([[e] for e in rows], Layout(pad_id=0, side=side))
    return inputs, fields


def packed(rows: list[list[Example]]) -> tuple[Any, Any]:
    inputs, fields, _, _ = collate_tokens(rows, Layout(pad_id=0, packing=True, multiple=8))
    return inputs, fields


EIGHT = examples(9, 4, 12, 7, 2, 5, 11, 3)
WAYS = {
    "left": lambda: padded(EIGHT, "left"),
    "packed in one row": lambda: packed([EIGHT]),
    "packed in rows": lambda: packed([EIGHT[:3], EIGHT[3:4], EIGHT[4:]]),
}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "qwen2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("way", sorted(WAYS))
def test_neither_packing_nor_the_padding_side_changes_statistics_or_gradients(
    tiny: Make, architecture: str, attention: str, way: str
) -> None:
    model = scored({"policy": tiny(architecture, attention=attention).eval()})
    results = []
    for inputs, fields in (padded(EIGHT), WAYS[way]()):
        model.zero_grad()
        wants = (*LOGPS, Stat("entropy"), Stat("pooled"))
        out = model(inputs, fields, [Pass(wants)])["policy"]
        (out["logps"] * fields["token_weights"]).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        results.append((out["logps"], out["entropy"], out["pooled"], gradient))
    for one, other in zip(*results, strict=True):
        assert torch.linalg.norm(one - other) <= 1e-5 * torch.linalg.norm(other)


def test_statistics_are_the_models_own_and_only_the_selected_positions_reach_the_head(tiny: Make) -> None:
    model = tiny("llama")
    seen: list[int] = []
    inner = scored({"policy": model})
    model.lm_head.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[0]))
    inputs, fields = padded(EIGHT)
    out = inner(inputs, fields, [Pass((*LOGPS, Stat("logits")))])["policy"]
    assert seen == [len(fields["select"])]
    logits = model(**inputs).logits.flatten(0, 1)[fields["select"]]
    torch.testing.assert_close(out["logits"], logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out["logps"], logits.log_softmax(-1).gather(1, fields["targets"][:, None])[:, 0])


def test_a_reference_by_adapter_off_is_the_untuned_model_and_takes_no_gradient(tiny: Make) -> None:
    base = tiny("llama")
    inputs, fields = padded(EIGHT)
    before = scored({"policy": base})(inputs, fields, [Pass(LOGPS)])["policy"]["logps"].detach()
    model = scored({"policy": lora(base)}, Role("policy"), Role("reference", False, of="policy", adapter_off=True))
    out = model(inputs, fields, [Pass(LOGPS), Pass(LOGPS, "reference", grad=False)])
    torch.testing.assert_close(out["reference"]["logps"], before, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(out["policy"]["logps"], before, atol=1e-3)
    assert out["policy"]["logps"].requires_grad
    assert not out["reference"]["logps"].requires_grad
    assert len(model.modules_by_role) == 1


def test_passes_without_gradient_run_without_dropout_and_draw_no_random_numbers(tiny: Make) -> None:
    model = scored({"policy": tiny("llama", attention_dropout=0.5, attention="eager")}).train()
    inputs, fields = padded(EIGHT)
    old = Pass(LOGPS, grad=False, id="old")
    alone = model.eval()(inputs, fields, [old])["old"]["logps"]
    model.train()
    torch.manual_seed(1)
    one = model(inputs, fields, [Pass(LOGPS)])["policy"]["logps"]
    torch.manual_seed(1)
    both = model(inputs, fields, [Pass(LOGPS), old])
    assert torch.equal(both["old"]["logps"], alone)
    assert torch.equal(both["policy"]["logps"], one)
    assert not torch.allclose(one, alone)
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("trained", [True, False], ids=["full", "lora"])
def test_many_chunks_give_the_gradients_of_one(tiny: Make, trained: bool) -> None:
    gradients = []
    for chunk in (1024, 5):
        base = tiny("llama")
        module = base if trained else lora(base, lora_dropout=0.3)
        torch.manual_seed(0)
        if not trained:
            for p in module.parameters():
                if p.requires_grad:
                    nn.init.normal_(p, std=0.1)
        model = scored({"policy": module}, chunk=chunk)
        inputs, fields = padded(EIGHT)
        torch.manual_seed(5)
        model(inputs, fields, [Pass(LOGPS)])["policy"]["logps"].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    assert torch.linalg.norm(gradients[0] - gradients[1]) <= 1e-5 * torch.linalg.norm(gradients[0])


def test_a_critic_gives_a_value_at_each_selected_position(tiny: Make) -> None:
    critic = tiny("llama", "AutoModelForTokenClassification", num_labels=1).eval()
    roles = (Role("policy"), Role("critic", head=Head("value")))
    model = scored({"policy": tiny("llama"), "critic": critic}, *roles)
    inputs, fields = padded(EIGHT)
    out = model(inputs, fields, [Pass(LOGPS), Pass((Stat("value"),), "critic")])
    wanted = critic(**inputs).logits.flatten(0, 1)[fields["select"], 0]
    torch.testing.assert_close(out["critic"]["value"], wanted, rtol=1e-5, atol=1e-6)
    (out["critic"]["value"].sum() + out["policy"]["logps"].sum()).backward()
    assert all(p.grad is not None for p in critic.parameters())


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_are_those_of_transformers_sequence_classifier(tiny: Make, side: str) -> None:
    classifier = tiny("llama", "AutoModelForSequenceClassification", num_labels=3).eval()
    model = scored({"policy": classifier})
    inputs, fields = padded(EIGHT, side)
    out = model(inputs, fields, [Pass((Stat("score"),))])["policy"]["score"]
    torch.testing.assert_close(out, classifier(**inputs).logits, rtol=1e-5, atol=1e-6)


def test_pooled_is_the_mean_over_a_samples_tokens_of_length_one(tiny: Make) -> None:
    base = tiny("llama", "AutoModel")
    model = scored({"policy": base})
    inputs, fields = padded(EIGHT)
    pooled = model(inputs, fields, [Pass((Stat("pooled"),))])["policy"]["pooled"]
    for row, example in zip(pooled, EIGHT, strict=True):
        alone = base(input_ids=torch.tensor(example.values["ids"])[None].long()).last_hidden_state[0].mean(0)
        torch.testing.assert_close(row, alone / alone.norm(), rtol=1e-4, atol=1e-5)


def test_prompt_tuning_is_scored_through_the_whole_model(tiny: Make) -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    module = peft.get_peft_model(tiny("llama"), config)
    inputs, fields = padded(EIGHT)
    inputs.pop("position_ids")
    found = scored({"policy": module})(inputs, fields, [Pass(LOGPS)])["policy"]["logps"]
    logits = module(**inputs).logits[:, 3:].flatten(0, 1)[fields["select"]]
    torch.testing.assert_close(found, logits.log_softmax(-1).gather(1, fields["targets"][:, None])[:, 0])


def test_statistics_come_in_single_precision_under_autocast(tiny: Make) -> None:
    model = scored({"policy": lora(tiny("llama"))})
    inputs, fields = padded(EIGHT)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(inputs, fields, [Pass(LOGPS)])["policy"]["logps"]
    half.sum().backward()
    assert half.dtype is torch.float32
    full = model(inputs, fields, [Pass(LOGPS)])["policy"]["logps"]
    assert torch.linalg.norm(half - full) < 0.02 * torch.linalg.norm(full)


def test_gradient_checkpointing_changes_nothing(tiny: Make) -> None:
    results: list[Tensor] = []
    for recompute in (False, True):
        module = lora(tiny("llama"))
        torch.manual_seed(0)
        for p in module.parameters():
            if p.requires_grad:
                nn.init.normal_(p, std=0.1)
        if recompute:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model = scored({"policy": module})
        inputs, fields = padded(EIGHT)
        model(inputs, fields, [Pass(LOGPS)])["policy"]["logps"].sum().backward()
        results.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.requires_grad]))
    torch.testing.assert_close(*results)


def test_what_a_role_lacks_is_said(tiny: Make) -> None:
    with pytest.raises(TkError, match="value head"):
        scored({"critic": tiny("llama")}, Role("critic", head=Head("value")))
    with pytest.raises(TkError, match="was not loaded"):
        scored({"policy": tiny("llama")}, Role("policy"), Role("teacher", of="elsewhere"))
    inputs, fields = padded(EIGHT)
    with pytest.raises(TkError, match="no vocabulary head"):
        scored({"policy": tiny("llama", "AutoModel")})(inputs, fields, [Pass(LOGPS)])
    with pytest.raises(ValueError, match="one key"):
        scored({"policy": tiny("llama")})(inputs, fields, [Pass(LOGPS), Pass(LOGPS, grad=False)])
    with pytest.raises(ValueError, match="temperatures"):
        scored({"policy": tiny("llama")})(inputs, fields, [Pass((*LOGPS, Stat("logps", 2.0)))])
    many = scored(
        {"critic": tiny("llama", "AutoModelForTokenClassification", num_labels=3)}, Role("critic", head=Head("value"))
    )
    with pytest.raises(TkError, match="3 numbers a token"):
        many(inputs, fields, [Pass((Stat("value"),), "critic")])
