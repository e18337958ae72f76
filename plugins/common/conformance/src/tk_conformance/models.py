"""Behaviour of model families and tuners: what they write opens in plain transformers with equal outputs and keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tk.contracts import Head, LoadedModel, ModelFamily, Tuner
from tk.errors import TkError
from tk.testing.need import need


def checkpoint_keys(folder: Path) -> set[str]:
    """Names of all tensors in a checkpoint's safetensors files."""
    found: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found.update(opened.keys())
    return found


def logits_of(module: nn.Module) -> Tensor:
    """Logits [2, 9, …] of two fixed rows, in evaluation mode."""
    vocabulary = module.config.get_text_config().vocab_size  # type: ignore[union-attr,operator]
    ids = torch.randint(vocabulary, (2, 9), generator=torch.Generator().manual_seed(0))
    module.eval()
    with torch.no_grad():
        logits: Tensor = module(input_ids=ids).logits
    return logits


def check_model(family: ModelFamily, checkpoint: Path, folder: Path) -> None:
    """A text checkpoint loads (really, on the meta device, with a value head), and what is saved is the same model.

    folder: an empty folder to write to.
    """
    path = family.resolve(str(checkpoint))
    model = family.load(path)
    need(model.tokenizer.pad_token_id is not None, "the tokenizer has no padding token")
    planned = family.load(path, device="meta")
    need(all(p.is_meta for p in planned.module.parameters()), 'load(device="meta") made tensors that are not on meta')
    need(_shapes(planned.module) == _shapes(model.module), "the meta module has other parameters than the loaded one")
    value = logits_of(family.load(path, head=Head("value")).module)
    need(value.shape == (2, 9, 1), f"a value head gave {tuple(value.shape)} and not one number a token")

    family.save(model, folder / "saved")
    _need_equal_keys(folder / "saved", checkpoint)
    plain = AutoModelForCausalLM.from_pretrained(folder / "saved")
    need(torch.equal(logits_of(plain), logits_of(model.module)), "the saved model gives other logits")
    tokenizer = AutoTokenizer.from_pretrained(folder / "saved")
    need(tokenizer.get_vocab() == model.tokenizer.get_vocab(), "the saved tokenizer has another vocabulary")
    need(tokenizer.chat_template == model.tokenizer.chat_template, "the saved tokenizer has another chat template")

    changed = {name: p.detach() + 0.1 for name, p in model.module.named_parameters()}
    family.save(model, folder / "changed", changed.items())
    again = AutoModelForCausalLM.from_pretrained(folder / "changed")
    need(all(torch.equal(p, changed[n]) for n, p in again.named_parameters()), "`weights` given to save are not saved")


def check_tuner(
    build: Callable[[], Tuner], checkpoint: Path, folder: Path, family: ModelFamily, *, tolerance: float = 1e-5
) -> None:
    """What was trained gives equal outputs after save and load, and merged; plans on the meta device see the same.

    build: makes a tuner with the options to be checked. folder: an empty folder to write to.
    """
    base = logits_of(family.load(str(checkpoint)).module)
    model, tuner = _attached(build, family, checkpoint)
    planned, _ = _attached(build, family, checkpoint, device="meta")
    need(_shapes(planned.module) == _shapes(model.module), "attached on the meta device it trains something else")
    need(torch.allclose(logits_of(model.module), base, atol=tolerance), "attaching alone changes the outputs")
    _check_groups(tuner, model.module)

    weights = _moved(model.module)
    tuned = logits_of(model.module)
    need(
        not torch.allclose(tuned, base, atol=10 * tolerance), "changing the trained weights does not change the outputs"
    )
    _check_adapter_off(tuner, model.module, base, tuned, tolerance)

    tuner.save(model, folder / "tuned", weights)
    again, fresh = _attached(build, family, checkpoint)
    fresh.load(again, folder / "tuned")
    need(torch.allclose(logits_of(again.module), tuned, atol=tolerance), "saved and loaded, the outputs differ")
    need(fresh.changes_output(again), "changes_output denies that the trained model computes anything else")

    fresh.merge(again)
    need(torch.allclose(logits_of(again.module), tuned, atol=tolerance), "merged, the outputs differ")
    family.save(again, folder / "merged")
    _need_equal_keys(folder / "merged", checkpoint)
    plain = AutoModelForCausalLM.from_pretrained(folder / "merged")
    need(torch.allclose(logits_of(plain), tuned, atol=tolerance), "plain transformers gives other outputs when merged")


def _attached(
    build: Callable[[], Tuner], family: ModelFamily, checkpoint: Path, device: str = "cpu"
) -> tuple[LoadedModel, Tuner]:
    model, tuner = family.load(str(checkpoint), device=device), build()
    tuner.attach(model)
    return model, tuner


def _check_groups(tuner: Tuner, module: nn.Module) -> None:
    grouped = [p for group in tuner.parameter_groups(module) for p in group.parameters]
    trained = {p for p in module.parameters() if p.requires_grad}
    need(trained, "nothing is trained")
    need(len(grouped) == len(set(grouped)), "a parameter is in two groups")
    need(set(grouped) == trained, "the parameter groups are not the parameters that require gradients")


def _check_adapter_off(tuner: Tuner, module: nn.Module, base: Tensor, tuned: Tensor, tolerance: float) -> None:
    try:
        off = tuner.adapter_off(module)
    except TkError:
        return
    with off:
        need(
            torch.allclose(logits_of(module), base, atol=tolerance), "with the adapter off it is not the untuned model"
        )
    need(torch.equal(logits_of(module), tuned), "after the adapter was off the outputs are others")


def _moved(module: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def _shapes(module: nn.Module) -> dict[str, tuple[torch.Size, bool]]:
    return {name: (p.shape, p.requires_grad) for name, p in module.named_parameters()}


def _need_equal_keys(folder: Path, base: Path) -> None:
    differing = sorted(checkpoint_keys(folder) ^ checkpoint_keys(base))
    need(not differing, f"the saved checkpoint's keys are not the base's: {', '.join(differing[:3])}")
