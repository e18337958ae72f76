"""Runs by name on generated pictures: weights, adapters and freezing; the same on two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

import tk
from tk.contracts import Head
from tk_conformance.methods import check_method
from tk_conformance.vision import rendered, write_pictures
from tk_llava.family import Llava
from tk_lora.options import LoraOptions
from tk_lora.tuner import LoraTuner

SHOWN: tuple[tuple[int, ...], ...] = ((0,), (), (1, 2), (3,), (), (2, 0), (1,), ())
"""Pictures of each row."""


def config(made: Any, folder: Path, **sections: Any) -> dict[str, Any]:
    write_pictures(folder)
    lines = []
    for number, shown in enumerate(SHOWN):
        parts = [{"type": "image", "image": f"{i}.png"} for i in shown]
        asked = {"role": "user", "content": [*parts, {"type": "text", "text": f"How many are here? {'x' * number}"}]}
        lines.append(json.dumps({"messages": [asked, {"role": "assistant", "content": f"{len(shown)} of them"}]}))
    (folder / "rows.jsonl").write_text("\n".join(lines), "utf-8")
    return {
        "model": str(made.folder / "model"),
        "data": str(folder / "rows.jsonl"),
        "optim": {"name": "sgd", "lr": 1e-3},
        "train": {"batch_size": 8, "steps": 3},
        "report": {"html": False, "plot": False},
        **sections,
    }


@pytest.mark.slow
def test_all_weights_on_one_and_two_processes(made: Any, tmp_path: Path) -> None:
    strategies = {"llava": ["ddp"], "llava_next": ["fsdp"]}.get(made.kind, ["ddp", "fsdp"])
    check_method(config(made, tmp_path, tuner="full"), tmp_path, strategies=strategies)


@pytest.mark.slow
def test_adapters_on_every_part_on_one_and_two_processes(made: Any, tmp_path: Path) -> None:
    """Adapters on layers that are not read would have no gradient, and processes would drift apart."""
    if made.kind != "llava":
        pytest.skip("the same adapters; one type is enough of two processes")
    tuner = {"name": "lora", "rank": 2, "groups": ["language_model", "vision_tower", "aligner"]}
    check_method(config(made, tmp_path, tuner=tuner), tmp_path, strategies=("ddp",))


RUNS = {
    "full": {"tuner": {"name": "full"}},
    "full, packed": {"tuner": {"name": "full"}, "packing": True},
    "lora": {"tuner": {"name": "lora", "rank": 8, "groups": ["language_model", "vision_tower", "aligner"]}},
}


@pytest.mark.parametrize(
    "run", ["full, packed", pytest.param("full", marks=pytest.mark.slow), pytest.param("lora", marks=pytest.mark.slow)]
)
def test_the_loss_falls_and_plain_transformers_gives_the_same_logits(made: Any, run: str, tmp_path: Path) -> None:
    data = {"sources": {"rows": {"path": str(tmp_path / "rows.jsonl")}}, "packing": "packing" in RUNS[run]}
    sections: dict[str, Any] = {
        "tuner": RUNS[run]["tuner"],
        "optim": {"name": "adamw", "lr": 3e-3 if "full" in run else 2e-2},
        "train": {"batch_size": 8, "micro_batch_size": 4, "steps": 30},
        "data": {**data, "max_length": 1024},
        "output": {"dir": str(tmp_path / "run")},
    }
    tk.train(**config(made, tmp_path, **sections))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text("utf-8").splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < 0.6 * losses[0]
    tk.export(run=str(tmp_path / "run"), to=str(tmp_path / "whole"))
    ours = Llava().load(str(tmp_path / "whole"))
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole").eval()
    out = rendered(made.processor, made.samples[:1])
    with torch.no_grad():
        logits = plain(**out).logits
        assert torch.equal(logits, ours.module(**out).logits)
        assert not torch.allclose(logits, made.model.module(**out).logits, atol=1e-2)


def test_recomputed_activations_change_nothing(made: Any, tmp_path: Path) -> None:
    weights = []
    for recomputed in (False, True):
        asked = config(made, tmp_path, tuner="full", output={"dir": str(tmp_path / str(recomputed))})
        tk.train(**asked | {"train": asked["train"] | {"gradient_checkpointing": recomputed}})
        loaded = Llava().load(str(tmp_path / str(recomputed) / "final")).module
        weights.append(torch.cat([parameter.flatten() for parameter in loaded.parameters()]))
    assert torch.allclose(*weights, rtol=0, atol=1e-7)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "k_proj", "fc1"]])
def test_adapters_are_put_on_what_is_read(made: Any, targets: Any) -> None:
    model = Llava().load(made.model.path)
    groups = ["language_model", "vision_tower", "aligner"] if targets == "all-linear" else ["vision_tower"]
    LoraTuner(LoraOptions(targets=targets, groups=groups)).attach(model)
    names = [name.removeprefix("base_model.model.") for name, _ in model.module.named_modules()]
    adapted = {name.removesuffix(".lora_A") for name in names if name.endswith(".lora_A")}
    assert any("vision_tower" in name for name in adapted)
    assert not {f"{name}.weight" for name in adapted} & model.unread


@pytest.mark.parametrize("head", [Head("score", ("a", "b", "c")), Head("none")])
def test_other_heads_see_pictures_too(made: Any, head: Head) -> None:
    model = Llava().load(made.model.path, head=head)
    assert set(model.groups) >= {"vision_tower", "aligner", "language_model"}
    assert {name.removeprefix("model.") for name in model.unread} == {
        name.removeprefix("model.") for name in made.model.unread
    }
    out = rendered(made.processor, made.samples[:1])
    blank = {**out, "pixel_values": torch.zeros_like(out["pixel_values"])}
    with torch.no_grad():
        seen, unseen = (model.module(**inputs)[0] for inputs in (out, blank))
    assert not torch.allclose(seen, unseen, atol=1e-3)


def test_the_newline_belongs_to_the_aligner_and_unread_layers_are_left(made: Any, tmp_path: Path) -> None:
    before = dict(made.model.module.named_parameters())
    made_run = config(made, tmp_path, tuner={"name": "full", "train": ["vision_tower", "aligner"]})
    tk.train(**made_run, output={"dir": str(tmp_path / "run")})
    after = dict(Llava().load(str(tmp_path / "run" / "final")).module.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    kept = before.keys() - changed
    language = {name for name in before if name.startswith(("model.language_model", "lm_head"))}
    softmaxed = {name for name in before if name.endswith("k_proj.bias")}  # adding it to all keys changes nothing
    assert kept - softmaxed == (language | made.model.unread) - softmaxed
