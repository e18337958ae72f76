"""BitFit on a small GPT-2 of plain transformers: what is trained, saved, loaded and refused."""

import pytest
import torch
from acme_tk_bitfit.options import BitFitOptions
from acme_tk_bitfit.tuner import BitFit
from transformers import AutoModelForCausalLM

from tk.errors import TkError, UsageError
from tk_auto.family import AutoFamily
from tk_conformance.tiny import tiny_checkpoint

IDS = torch.arange(3, 35)[None]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("gpt2") / "checkpoint", "gpt2", vocab=300)


def attached(checkpoint, device="cpu", **options):
    model, tuner = AutoFamily().load(str(checkpoint), device=device), BitFit(BitFitOptions(**options))
    tuner.attach(model)
    return model, tuner


def step(model, tuner):
    (group,) = tuner.parameter_groups(model.module)
    optimizer = torch.optim.SGD(group.parameters, lr=0.1)
    model.module(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    return {name: p.detach() for name, p in model.module.named_parameters() if p.requires_grad}


def test_only_biases_move(checkpoint):
    model, tuner = attached(checkpoint)
    before = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    step(model, tuner)
    moved = {name for name, p in model.module.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all(name.endswith(".bias") for name in moved)


def test_only_names_modules(checkpoint):
    model, _ = attached(checkpoint, only=["c_fc"])
    trained = [name for name, p in model.module.named_parameters() if p.requires_grad]
    assert trained == [f"transformer.h.{layer}.mlp.c_fc.bias" for layer in range(2)]


def test_attaching_works_without_weights(checkpoint):
    real, planned = attached(checkpoint)[0].module, attached(checkpoint, device="meta")[0].module
    assert [p.requires_grad for p in planned.parameters()] == [p.requires_grad for p in real.parameters()]


def test_saved_biases_open_in_plain_transformers_and_load_again(checkpoint, tmp_path):
    model, tuner = attached(checkpoint)
    tuner.save(model, tmp_path / "saved", step(model, tuner))
    logits = model.module.eval()(IDS).logits
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()(IDS).logits, logits)

    fresh, same = attached(checkpoint)
    assert not torch.equal(fresh.module(IDS).logits, logits)
    same.load(fresh, tmp_path / "saved")
    same.merge(fresh)
    assert torch.equal(fresh.module(IDS).logits, logits)


def test_a_model_without_biases_is_refused(tmp_path):
    llama = tiny_checkpoint(tmp_path / "llama", "llama", vocab=300)
    with pytest.raises(UsageError, match="LlamaForCausalLM has no biases"):
        attached(llama)


def test_another_models_checkpoint_is_refused(checkpoint, tmp_path):
    model, tuner = attached(checkpoint)
    llama = tiny_checkpoint(tmp_path / "llama", "llama", vocab=300)
    with pytest.raises(TkError, match="lacks transformer.h.0"):
        tuner.load(model, llama)
