"""Saved checkpoints open in plain transformers, hold the base's keys, and appear whole or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from tk.contracts import Head
from tk.errors import TkError
from tk.files import staged
from tk_auto.family import AutoFamily
from tk_conformance.tiny import tiny_checkpoint


def keys(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text", "mixtral"])
@pytest.mark.parametrize("tied", [True, False])
def test_replaced_weights_are_what_transformers_reads_back(architecture: str, tied: bool, tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", architecture, vocab=300, tie_word_embeddings=tied)
    family = AutoFamily()
    model = family.load(str(base))
    weights = {name: torch.randn_like(p) * 0.1 for name, p in model.module.named_parameters()}
    family.save(model, tmp_path / "out", weights.items())

    assert keys(tmp_path / "out") == keys(base)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(p, weights[name]) for name, p in plain.named_parameters())
    assert {f.name for f in base.iterdir()} <= {f.name for f in (tmp_path / "out").iterdir()}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == model.tokenizer.chat_template
    assert tokenizer.encode("héllo 12") == model.tokenizer.encode("héllo 12")


def test_gathered_copies_of_tied_weights_are_written_once(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", vocab=300, tie_word_embeddings=True)
    family = AutoFamily()
    model = family.load(str(base))
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    assert "lm_head.weight" in state
    family.save(model, tmp_path / "out", state.items())
    assert keys(tmp_path / "out") == keys(base)


def test_a_module_on_meta_is_written_from_weights_alone_or_refused(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", vocab=300)
    family = AutoFamily()
    weights = dict(family.load(str(base)).module.named_parameters())
    planned = family.load(str(base), device="meta")
    family.save(planned, tmp_path / "out", ((n, p.detach()) for n, p in weights.items()))
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(input_ids=ids).logits
        assert torch.equal(plain, AutoModelForCausalLM.from_pretrained(base)(input_ids=ids).logits)
    weights.popitem()
    with pytest.raises(TkError, match="not loaded"):
        family.save(planned, tmp_path / "other", weights.items())
    with pytest.raises(TkError, match="no weights named typo"):
        family.save(planned, tmp_path / "other", [("typo", torch.zeros(1))])
    assert not (tmp_path / "other").exists()


def test_value_models_come_back_as_they_were(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", vocab=300)
    family = AutoFamily()
    model = family.load(str(base), head=Head("value"))
    torch.nn.init.normal_(model.module.score.weight)
    family.save(model, tmp_path / "out")
    again = family.load(str(tmp_path / "out"), head=Head("value"))
    assert torch.equal(again.module.score.weight, model.module.score.weight)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def write_half() -> None:
        with staged(tmp_path / "out") as work:
            (work / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_folders_within_can_be_opened_and_replaced(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with staged(tmp_path / "out") as work:
            (work / "part").mkdir(mode=0o700)
            (work / "part" / "inner.json").write_text(text)
            (work / "config.json").write_text(text)
        assert (tmp_path / "out" / "part").stat().st_mode & 0o777 == 0o755
        assert (tmp_path / "out" / "part" / "inner.json").read_text() == text


def test_saving_into_a_folder_keeps_what_else_is_there(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", vocab=300)
    family = AutoFamily()
    model = family.load(str(base))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "trainer.json").write_text("{}")
    family.save(model, tmp_path / "out")
    family.save(model, tmp_path / "out")
    assert (tmp_path / "out" / "trainer.json").read_text() == "{}"
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {f.name for f in tmp_path.iterdir()} == {"base", "out"}
