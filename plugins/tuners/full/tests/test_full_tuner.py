"""What is trained is what the patterns say; the checkpoint is a plain one; mistakes name the nearest."""

import re
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from tk.contracts import LoadedModel, Tuner
from tk.errors import TkError, UsageError
from tk_auto.family import AutoFamily
from tk_conformance.tiny import tiny_checkpoint
from tk_full.options import FullOptions
from tk_full.tuner import FullTuner


def loaded(folder: Path, **settings: object) -> LoadedModel:
    return AutoFamily().load(str(tiny_checkpoint(folder, vocab=300, **settings)))  # type: ignore[arg-type]


def trained(model: LoadedModel) -> set[str]:
    return {name for name, p in model.module.named_parameters() if p.requires_grad}


def test_it_is_a_tuner_with_documented_options() -> None:
    assert isinstance(FullTuner(FullOptions()), Tuner)
    assert msgspec.convert({"freeze": ["a"]}, FullOptions) == FullOptions(freeze=["a"])


@pytest.mark.parametrize(
    ("options", "expression"),
    [
        (FullOptions(), ""),
        (FullOptions(train=["language_model"]), ""),
        (FullOptions(train=["mlp"]), r"\.mlp\."),
        (FullOptions(train=["layers.0"]), r"layers\.0\."),
        (FullOptions(train=["layers.[1-9].mlp", "norm"]), r"layers\.1\.mlp\.|^model\.norm\."),
        (FullOptions(freeze=["embed_tokens"]), r"^(?!model\.embed_tokens)"),
        (FullOptions(train=["self_attn"], freeze=["q_proj.weight"]), r"[kvo]_proj"),
        (FullOptions(train=[r"re:layers\.\d+\.(mlp|self_attn)\.[gq]"]), r"gate_proj|q_proj"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_patterns_choose_what_is_trained(options: FullOptions, expression: str, device: str, tmp_path: Path) -> None:
    model = AutoFamily().load(str(tiny_checkpoint(tmp_path / "m", vocab=300)), device=device)
    FullTuner(options).attach(model)
    names = [name for name, _ in model.module.named_parameters()]
    assert trained(model) == {name for name in names if re.search(expression, name)}


def test_attaching_again_forgets_what_was_frozen_before(tmp_path: Path) -> None:
    model = loaded(tmp_path / "m")
    FullTuner(FullOptions(train=["lm_head"])).attach(model)
    FullTuner(FullOptions()).attach(model)
    assert len(trained(model)) == len(list(model.module.parameters()))


def test_a_tied_weight_is_known_by_each_of_its_names(tmp_path: Path) -> None:
    model = loaded(tmp_path / "m", tie_word_embeddings=True)
    FullTuner(FullOptions(freeze=["lm_head"])).attach(model)
    assert "model.embed_tokens.weight" not in trained(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FullOptions(freeze=["emebd_tokens"]), r"tuner\.freeze: 'emebd_tokens' .* Did you mean 'embed_tokens'"),
        (FullOptions(train=["vision_tower"]), r"tuner\.train: 'vision_tower' matches no"),
        (FullOptions(train=["layers.9"]), r"'layers\.9' matches no"),
        (FullOptions(train=["re:("]), "not a regular expression"),
        (FullOptions(lr_scale={"lm_haed": 2.0}), r"tuner\.lr_scale.*'lm_head'"),
        (FullOptions(freeze=["language_model"]), "leave nothing"),
    ],
)
def test_patterns_that_cannot_be_meant_are_usage_errors(options: FullOptions, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        FullTuner(options).attach(loaded(tmp_path / "m"))


def test_groups_hold_each_trained_parameter_once_and_spare_norms_and_biases(tmp_path: Path) -> None:
    model = AutoFamily().load(str(tiny_checkpoint(tmp_path / "m", "gpt2", vocab=300)))
    tuner = FullTuner(FullOptions(lr_scale={"wte": 0.1}, freeze=["wpe"]))
    tuner.attach(model)
    groups = tuner.parameter_groups(torch.nn.ModuleDict({"policy": model.module}))
    grouped = [p for group in groups for p in group.parameters]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {p for p in model.module.parameters() if p.requires_grad}
    wte = model.module.transformer.wte.weight
    assert [(g.lr_scale, g.decay) for g in groups if any(p is wte for p in g.parameters)] == [(0.1, True)]
    spared = {p for group in groups if not group.decay for p in group.parameters}
    named = dict(model.module.named_parameters())
    assert spared == {p for name, p in named.items() if name.endswith("bias") or "ln_" in name}


def test_saved_weights_open_in_transformers_and_load_back(tmp_path: Path) -> None:
    model = loaded(tmp_path / "base", tie_word_embeddings=True)
    tuner = FullTuner(FullOptions(train=["mlp"]))
    tuner.attach(model)
    weights = {name: torch.randn_like(p) for name, p in model.module.named_parameters() if p.requires_grad}
    tuner.save(model, tmp_path / "out", weights)

    ids = torch.tensor([[5, 6, 7, 8]])
    again = AutoFamily().load(str(tmp_path / "base"))
    tuner.attach(again)
    tuner.load(again, tmp_path / "out")
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(input_ids=ids).logits
        assert torch.equal(again.module(input_ids=ids).logits, logits)
        assert not torch.equal(model.module(input_ids=ids).logits, logits)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model = loaded(tmp_path / "m")
    other = tiny_checkpoint(tmp_path / "other", vocab=300, hidden=64)
    with pytest.raises(TkError, match="another model"):
        FullTuner(FullOptions()).load(model, other)
    with pytest.raises(TkError, match="no checkpoint"):
        FullTuner(FullOptions()).load(model, tmp_path)


def test_there_is_no_untuned_model_to_switch_to(tmp_path: Path) -> None:
    model = loaded(tmp_path / "m")
    with pytest.raises(TkError, match="no adapter"):
        FullTuner(FullOptions()).adapter_off(model.module)
