"""What is adapted is what the options say, also on the meta device; mistakes name the option and the nearest module."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tk.config.options import options_of
from tk.contracts import LoadedModel, Tuner
from tk.errors import TkError, UsageError
from tk_auto.family import AutoFamily
from tk_conformance.tiny import tiny_checkpoint
from tk_lora.options import LoraOptions
from tk_lora.tuner import LoraTuner


def load(folder: Path, architecture: str = "llama", device: str = "cpu", **config: Any) -> LoadedModel:
    path = folder if folder.exists() else tiny_checkpoint(folder, architecture, vocab=300, **config)
    return AutoFamily().load(str(path), device=device)


def test_it_is_a_tuner_whose_options_import_nothing_heavy() -> None:
    assert isinstance(LoraTuner(LoraOptions()), Tuner)
    program = "import sys, tk_lora.plugin, tk_lora.options; print('peft' in sys.modules or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("wrong", [{"init": "magic"}, {"rank": 0}, {"dropout": 1.0}, {"init": "pissa_niter_0"}])
def test_options_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    (option,) = (option for option in options_of(LoraOptions) if option.name == name)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(value, option.annotated)


def test_initial_values_are_those_of_plain_peft(tmp_path: Path) -> None:
    model = load(tmp_path / "m")
    torch.manual_seed(3)
    LoraTuner(LoraOptions(rank=4)).attach(model)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    expected = dict(get_peft_model(plain, config).named_parameters())
    own = dict(model.module.named_parameters())
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[n], p) and own[n].requires_grad == p.requires_grad for n, p in expected.items())


@pytest.mark.parametrize(
    "options",
    [
        LoraOptions(),
        LoraOptions(dora=True),
        LoraOptions(init="pissa", rank=8),
        LoraOptions(init="olora", rank=8),
        LoraOptions(modules_to_save=["embed_tokens"]),
    ],
)
def test_the_meta_device_has_the_same_parameters(options: LoraOptions, tmp_path: Path) -> None:
    real, planned = load(tmp_path / "m"), load(tmp_path / "m", device="meta")
    LoraTuner(options).attach(real)
    LoraTuner(options).attach(planned)
    shapes = [{n: (p.shape, p.requires_grad, p.dtype) for n, p in m.module.named_parameters()} for m in (real, planned)]
    assert shapes[0] == shapes[1]
    assert all(p.is_meta for p in planned.module.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["q_prj"]}, r"tuner\.targets: the model has no module 'q_prj'\. Did you mean 'q_proj'"),
        ({"targets": ["q_proj", "zzz"]}, r"no module 'zzz'\. It has: .*down_proj"),
        ({"targets": "all_linear"}, r"tuner\.targets: .* 'all_linear'"),
        ({"targets": "("}, "not a regular expression"),
        ({"exclude": ["lm_haed"]}, r"tuner\.exclude.*'lm_head'"),
        ({"modules_to_save": ["embed"]}, r"tuner\.modules_to_save"),
        ({"rank_pattern": {"q_porj": 2}}, r"tuner\.rank_pattern.*'q_proj'"),
        ({"target_parameters": ["experts.up"]}, r"tuner\.target_parameters"),
        ({"init": "pissa", "rank": 64}, r"tuner\.rank: pissa needs a rank of at most"),
        ({"init": "pissa", "targets": ["embed_tokens"]}, "linear layers only|target module"),
    ],
)
def test_options_that_do_not_fit_the_model_are_usage_errors(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        LoraTuner(LoraOptions(**options)).attach(load(tmp_path / "m"))


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("llama", {"targets": ["embed_tokens"]}, "are one weight.*modules_to_save"),
        ("llama", {"modules_to_save": ["lm_head"]}, "name 'model.embed_tokens' instead"),
        ("gpt2", {"modules_to_save": ["wte"]}, "peft cannot keep"),
        ("gpt2", {"init": "olora"}, "use pissa"),
    ],
)
def test_what_peft_would_get_wrong_is_refused(architecture: str, options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        LoraTuner(LoraOptions(**options)).attach(load(tmp_path / "m", architecture, tie_word_embeddings=True))


def test_options_are_left_as_the_user_gave_them(tmp_path: Path) -> None:
    options = LoraOptions(modules_to_save=["embed_tokens", "lm_head"], targets=["q_proj"])
    LoraTuner(options).attach(load(tmp_path / "m", tie_word_embeddings=True))
    assert (options.modules_to_save, options.targets) == (["embed_tokens", "lm_head"], ["q_proj"])


def test_attaching_leaves_the_mode_of_the_model_alone(tmp_path: Path) -> None:
    model = load(tmp_path / "m", "gpt2")
    LoraTuner(LoraOptions(dropout=0.1)).attach(model)
    assert not any(part.training for part in model.module.modules())


def test_lora_plus_scales_the_rate_of_b_alone(tmp_path: Path) -> None:
    model = load(tmp_path / "m")
    tuner = LoraTuner(LoraOptions(lora_plus_ratio=16.0, dora=True, modules_to_save=["norm"], targets=["q_proj"]))
    tuner.attach(model)
    groups = tuner.parameter_groups(torch.nn.ModuleDict({"policy": model.module}))
    names = {p: name for name, p in model.module.named_parameters()}
    grouped = {names[p]: (group.lr_scale, group.decay) for group in groups for p in group.parameters}
    assert set(grouped) == {name for name, p in model.module.named_parameters() if p.requires_grad}
    for name, (scale, decay) in grouped.items():
        assert scale == (16.0 if ".lora_B." in name else 1.0)
        assert decay == (".lora_A." in name or ".lora_B." in name), name


def test_the_adapter_can_be_switched_off_inside_a_wrapper(tmp_path: Path) -> None:
    model = load(tmp_path / "m")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        untuned = model.module(input_ids=ids).logits
        tuner = LoraTuner(LoraOptions(modules_to_save=["norm"]))
        tuner.attach(model)
        wrapper = torch.nn.ModuleDict({"policy": model.module})
        for parameter in model.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
        with tuner.adapter_off(wrapper):
            assert torch.equal(model.module(input_ids=ids).logits, untuned)
        assert not torch.allclose(model.module(input_ids=ids).logits, untuned)


@pytest.mark.parametrize("options", [{"init": "pissa", "rank": 4}, {"bias": "all"}])
def test_where_off_would_not_be_the_untuned_model_it_is_refused(options: Any, tmp_path: Path) -> None:
    model = load(tmp_path / "m")
    tuner = LoraTuner(LoraOptions(**options))
    tuner.attach(model)
    with pytest.raises(TkError, match=r"tuner\.(init|bias)"):
        tuner.adapter_off(model.module)


@pytest.mark.parametrize("init", ["true", "pissa"])
def test_adapters_that_do_not_fit_are_refused(init: str, tmp_path: Path) -> None:
    model = load(tmp_path / "m")
    tuner = LoraTuner(LoraOptions(rank=4, init=init))
    tuner.attach(model)
    tuner.save(model, tmp_path / "a", {n: p.detach() for n, p in model.module.named_parameters() if p.requires_grad})
    for other in (LoraOptions(rank=2, init=init), LoraOptions(rank=4, init=init, targets=["q_proj"])):
        another = load(tmp_path / "m")
        fresh = LoraTuner(other)
        fresh.attach(another)
        with pytest.raises(TkError, match="does not fit"):
            fresh.load(another, tmp_path / "a")
    with pytest.raises(TkError, match="holds no adapter"):
        tuner.load(model, tmp_path)
    file = tmp_path / "a" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(TkError, match="damaged"):
        tuner.load(model, tmp_path / "a")
    with pytest.raises(TkError, match="no weights named nonsense"):
        tuner.save(model, tmp_path / "b", {"nonsense": torch.zeros(1)})
