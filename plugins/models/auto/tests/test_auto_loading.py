"""Checkpoints open with transformers' own weights, with either head, and errors name the folder and the mend."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tk.contracts import Head
from tk.errors import TkError, UsageError
from tk_auto.family import AutoFamily
from tk_conformance.tiny import tiny_checkpoint

ARCHITECTURES = ("llama", "qwen3", "gpt2", "gemma3_text")


@pytest.fixture
def family() -> AutoFamily:
    return AutoFamily()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_language_models_give_the_logits_of_plain_transformers(
    architecture: str, family: AutoFamily, tmp_path: Path
) -> None:
    folder = tiny_checkpoint(tmp_path / "m", architecture, vocab=300)
    model = family.load(family.resolve(str(folder)))
    ids = torch.randint(3, 300, (2, 9))
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder).eval()(input_ids=ids).logits
        assert torch.equal(model.module(input_ids=ids).logits, expected)
    assert not model.module.training
    assert model.path == str(folder)
    assert model.groups == {"language_model": ("",)}
    assert {"packing", "index-select", "padding-left"} <= model.supports


def test_meta_loading_reads_no_weights_and_has_the_same_parameters(family: AutoFamily, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", vocab=300)
    loaded = family.load(str(folder))
    (folder / "model.safetensors").unlink()
    planned = family.load(str(folder), device="meta")
    shapes = {name: p.shape for name, p in planned.module.named_parameters()}
    assert shapes == {name: p.shape for name, p in loaded.module.named_parameters()}
    assert all(p.is_meta for p in planned.module.parameters())
    assert planned.supports == loaded.supports


def test_recurrent_models_promise_neither_packing_nor_left_padding(family: AutoFamily, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", "mamba", vocab=300)
    supports = family.load(str(folder), device="meta").supports
    assert not {"packing", "padding-left"} & supports


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_new_value_heads_are_zero_and_leave_the_seed_alone(
    architecture: str, family: AutoFamily, tmp_path: Path
) -> None:
    folder = tiny_checkpoint(tmp_path / "m", architecture, vocab=300)
    before = torch.get_rng_state()
    module = family.load(str(folder), head=Head("value")).module
    assert torch.equal(torch.get_rng_state(), before)
    values = module(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert torch.equal(values, torch.zeros(1, 3, 1))
    assert all(m.p == 0 for n, m in module.named_modules() if n == "dropout")


def test_a_value_head_starts_from_the_scores_of_a_reward_model(family: AutoFamily, tmp_path: Path) -> None:
    base = family.load(str(tiny_checkpoint(tmp_path / "m", vocab=300)), head=Head("score", ("reward",), "regression"))
    torch.nn.init.normal_(base.module.score.weight)
    family.save(base, tmp_path / "reward")
    value = family.load(str(tmp_path / "reward"), head=Head("value")).module
    assert torch.equal(value.score.weight, base.module.score.weight)
    assert not value.score.bias.any()


def test_dtype_auto_is_fp32_on_a_cpu_and_a_wish_is_kept(family: AutoFamily, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", vocab=300, dtype="bfloat16")
    assert family.load(str(folder)).module.dtype == torch.float32
    assert family.load(str(folder), dtype="bf16").module.dtype == torch.bfloat16


def test_attention_is_passed_on_and_an_unknown_one_is_a_usage_error(family: AutoFamily, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", vocab=300)
    assert family.load(str(folder), attention="eager").module.config._attn_implementation == "eager"
    with pytest.raises(UsageError, match="model.attention.*'sideways'"):
        family.load(str(folder), attention="sideways")


def test_a_tokenizer_without_padding_pads_with_its_end_token_and_no_embedding_grows(
    family: AutoFamily, tmp_path: Path
) -> None:
    folder = tiny_checkpoint(tmp_path / "m", vocab=300)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    model = family.load(str(folder))
    assert model.tokenizer.pad_token_id == model.tokenizer.eos_token_id
    assert len(model.tokenizer) == model.module.get_input_embeddings().num_embeddings


def test_a_folder_without_config_says_so_and_names_an_adapters_base(family: AutoFamily, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TkError, match=r"empty has no config\.json"):
        family.resolve(str(tmp_path / "empty"))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    with pytest.raises(TkError, match="holds an adapter, whose base model is some/base"):
        family.resolve(str(tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "names no model_type"),
        ('{"model_type": "nonesuch"}', "'nonesuch', which the installed transformers does not know"),
        ('{"model_type": "nonesuch", "auto_map": {"AutoConfig": "x.Y"}}', "--model.trust-remote-code"),
        ('{"model_type": "clip_vision_model"}', "does not have as a language model"),
    ],
)
def test_configs_that_open_no_language_model_say_why(
    config: str, message: str, family: AutoFamily, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(TkError, match=message):
        family.load(str(tmp_path))


def test_missing_truncated_and_incomplete_weights_are_errors(family: AutoFamily, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", vocab=300)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TkError, match="cannot be read"):
        family.load(str(folder))
    weights.unlink()
    with pytest.raises(TkError, match=r"no \*\.safetensors"):
        family.load(str(folder))

    from safetensors.torch import load, save_file

    tensors = load(whole)
    tensors.pop("model.norm.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(TkError, match=r"lacks weights .*model\.norm\.weight"):
        family.load(str(folder))


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nope", "a/b/c", "what is this?"])
def test_names_that_can_be_no_checkpoint_are_usage_errors(name: str, family: AutoFamily) -> None:
    with pytest.raises(UsageError):
        family.resolve(name)
    with pytest.raises(UsageError, match="revision"):
        family.resolve(str(Path(__file__).parent), revision="main")


def test_an_unreachable_hub_is_one_immediate_error() -> None:
    program = (
        "from tk_auto.family import AutoFamily\n"
        "from tk.errors import TkError\n"
        "try: AutoFamily().resolve('nobody/nothing')\n"
        "except TkError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert "'nobody/nothing' is no folder here and not in the hub's cache" in done.stdout
    assert done.stderr == ""


def test_loading_prints_nothing(family: AutoFamily, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tiny_checkpoint(tmp_path / "m", vocab=300)
    family.load(str(folder))
    family.load(str(folder), head=Head("value"))
    assert capfd.readouterr() == ("", "")
