"""Several adapters on one model: each request is answered as a model with this adapter alone would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tk.contracts import LoadedModel, Request, Sampling
from tk.engines import generate
from tk.errors import TkError, UsageError
from tk_auto.family import AutoFamily
from tk_conformance.tiny import tiny_checkpoint
from tk_lora.options import LoraOptions
from tk_lora.tuner import LoraTuner
from tk_transformers.engine import TransformersEngine
from tk_transformers.options import TransformersOptions

LONG = tuple(range(20, 50))
GREEDY = Sampling(max_tokens=8)


def written(folder: Path, base: Path, seed: int, **options: Any) -> Path:
    """An adapter as plain peft writes it, whose B is not zero but for seed 0."""
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 2, "target_modules": "all-linear", **options})
    module = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_B." in name and seed:
                parameter.normal_()
    module.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "tiny", "llama", vocab=300)


@pytest.fixture(scope="module")
def folders(base: Path) -> dict[str, Path]:
    return {
        "one": written(base.parent / "one", base, 1, target_modules=["q_proj", "v_proj"]),
        "two": written(base.parent / "two", base, 2, r=5),
    }


def alone(base: Path, adapter: Path | None, ids: tuple[int, ...]) -> list[int]:
    module: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        module = PeftModel.from_pretrained(module, adapter)
    inputs = torch.tensor([ids])
    made = module.eval().generate(
        input_ids=inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=8, do_sample=False, eos_token_id=299
    )
    return list(made[0, len(ids) :].tolist())


def with_adapters(model: LoadedModel, folders: dict[str, Path], tuner: LoraTuner | None = None) -> LoadedModel:
    model.adapters = (tuner or LoraTuner(LoraOptions())).adapters(model)
    for name, folder in folders.items():
        model.adapters.add(name, folder)
    return model


@pytest.mark.parametrize("places", [1, 3, 32])
def test_each_request_is_answered_by_its_adapter(base: Path, folders: dict[str, Path], places: int) -> None:
    model = with_adapters(AutoFamily().load(str(base)), folders)
    engine = TransformersEngine(TransformersOptions(max_batch=places), model=model)
    asked = [
        (name, ids) for ids in ((5, 6, 7), LONG, (*LONG, 7), (9, 8, 7, 6, 5, 4)) for name in ("", "one", "two", "one")
    ]
    found = generate(engine, [Request(ids, GREEDY, (299,), adapter=name) for name, ids in asked])
    expected = [alone(base, folders.get(name), ids) for name, ids in asked]
    assert [list(c[0].ids) for c in found] == expected
    assert expected[0] != expected[1] != expected[2]


def test_beside_an_adapter_of_ones_own(base: Path, folders: dict[str, Path]) -> None:
    """What a run has trained answers where none is named."""
    model, tuner = AutoFamily().load(str(base)), LoraTuner(LoraOptions(rank=5, alpha=8))
    tuner.attach(model)
    tuner.load(model, folders["two"])
    model = with_adapters(model, {"one": folders["one"]}, tuner)
    engine = TransformersEngine(TransformersOptions(), model=model)
    found = generate(engine, [Request(LONG, GREEDY, (299,), adapter=name) for name in ("", "one")])
    assert [list(c[0].ids) for c in found] == [alone(base, folders[name], LONG) for name in ("two", "one")]


def test_what_cannot_be_offered_says_why(base: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    model = with_adapters(AutoFamily().load(str(base)), {"one": folders["one"]})
    adapters: Any = model.adapters
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    for name, folder, message in (
        ("one", folders["two"], "the name is taken"),
        ("x", tmp_path, "holds no adapter"),
        ("x", broken, "cannot be read"),
        ("x", written(tmp_path / "nothing", base, 0), "changes nothing"),
        ("x", written(tmp_path / "dora", base, 3, use_dora=True), "DoRA"),
        ("x", written(tmp_path / "saves", base, 3, modules_to_save=["lm_head"]), "replaces weights"),
    ):
        with pytest.raises(TkError, match=message):
            adapters.add(name, folder)
    other = tiny_checkpoint(tmp_path / "other", "llama", vocab=300, hidden=16)
    with pytest.raises(TkError, match="does not fit the model"):
        adapters.add("y", written(tmp_path / "wide", other, 3))
    engine = TransformersEngine(TransformersOptions(), model=model)
    with pytest.raises(UsageError, match="no adapter 'z': one"):
        engine.add(Request([5], adapter="z"))
    with pytest.raises(UsageError, match="no adapter 'z': none is loaded"):
        TransformersEngine(TransformersOptions(), model=AutoFamily().load(str(base))).add(Request([5], adapter="z"))
    assert adapters.names == ("one",)
    made = generate(engine, [Request(LONG, GREEDY, (299,), adapter="one")])[0][0]
    assert list(made.ids) == alone(base, folders["one"], LONG), "what was refused has left no trace"


def test_adapters_come_and_go(base: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    """While others are answered, and with nothing of one left in what bears its name later."""
    model = with_adapters(AutoFamily().load(str(base)), {})
    adapters: Any = model.adapters
    engine = TransformersEngine(TransformersOptions(), model=model)
    plain = model.module
    assert greedy(engine, "") == alone(base, None, LONG)
    other = tiny_checkpoint(tmp_path / "other", "llama", vocab=300, hidden=16)
    for folder in (written(tmp_path / "wide", other, 3), written(tmp_path / "nothing", base, 0)):
        with pytest.raises(TkError):
            adapters.add("bad", folder)
        assert (model.module, adapters.names) == (plain, ())
        assert greedy(engine, "") == alone(base, None, LONG), "what was refused has left no trace"
    on_its_way = engine.add(Request(LONG, GREEDY, (299,)))
    deltas = list(engine.step())
    adapters.add("one", folders["one"])
    while engine.in_flight:
        deltas += engine.step()
    assert [i for delta in deltas if delta.key == on_its_way for i in delta.ids] == alone(base, None, LONG)
    adapters.add("two", folders["two"])
    for name in ("one", "two", ""):
        assert greedy(engine, name) == alone(base, folders.get(name), LONG)
    adapters.remove("one")
    engine.update((), 1)
    with pytest.raises(UsageError, match="no adapter 'one': two"):
        engine.add(Request(LONG, GREEDY, adapter="one"))
    adapters.add("one", folders["two"])
    assert greedy(engine, "one") == alone(base, folders["two"], LONG)
    for name in ("two", "one"):
        adapters.remove(name)
    with pytest.raises(UsageError, match="no adapter 'one': none is loaded"):
        adapters.remove("one")
    assert (adapters.names, "lora" in str(model.module)) == ((), False)
    assert greedy(engine, "") == alone(base, None, LONG)


def greedy(engine: TransformersEngine, adapter: str) -> list[int]:
    return list(generate(engine, [Request(LONG, GREEDY, (299,), adapter=adapter)])[0][0].ids)
