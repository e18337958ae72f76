"""The checks pass for what keeps its contract, and name what is wrong with what does not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM

from tk.contracts import Delta, LoadedModel, Request, Stat
from tk_auto.family import AutoFamily
from tk_conformance.engines import check_engine
from tk_conformance.losses import check_loss
from tk_conformance.models import check_model, check_tuner
from tk_conformance.tiny import tiny_checkpoint, tiny_tokenizer

full = pytest.importorskip("tk_full.tuner")
lora = pytest.importorskip("tk_lora.tuner")
engines = pytest.importorskip("tk_transformers.engine")


# --- tiny checkpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture", ["llama", "qwen2", "qwen3", "gpt2", "gemma3_text", "mistral", "mamba", "mixtral"]
)
def test_tiny_checkpoints_open_and_are_the_same_for_the_same_seed(architecture: str, tmp_path: Path) -> None:
    folders = [tiny_checkpoint(tmp_path / str(i), architecture, vocab=300, seed=i // 2) for i in range(3)]
    states = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in folders]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_both_tokenizers_speak_chatml_and_get_every_text_back() -> None:
    for vocab in ("smollm2", 259):
        tokenizer = tiny_tokenizer(vocab)
        text = tokenizer.apply_chat_template([{"role": "user", "content": "Grüße 🙂 12"}], tokenize=False)
        assert text.endswith("<|im_start|>user\nGrüße 🙂 12<|im_end|>\n")
        assert tokenizer.decode(tokenizer.encode("Grüße 🙂 12")) == "Grüße 🙂 12"
    with pytest.raises(ValueError, match="at least 259"):
        tiny_tokenizer(100)


# --- models and tuners ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_auto_family_passes(architecture: str, tmp_path: Path) -> None:
    check_model(AutoFamily(), tiny_checkpoint(tmp_path / "base", architecture, vocab=300), tmp_path / "out")


class Forgetful(AutoFamily):
    def save(self, model: LoadedModel, folder: Path, weights: Any = None) -> None:
        super().save(model, folder)


def test_a_family_that_ignores_the_weights_it_is_given_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="`weights` given to save are not saved"):
        check_model(Forgetful(), tiny_checkpoint(tmp_path / "base", vocab=300), tmp_path / "out")


@pytest.mark.parametrize("name", ["full", "lora", "pissa", "dora"])
def test_the_tuners_pass(name: str, tmp_path: Path) -> None:
    from tk_full.options import FullOptions
    from tk_lora.options import LoraOptions

    builds = {
        "full": lambda: full.FullTuner(FullOptions(freeze=["embed_tokens"])),
        "lora": lambda: lora.LoraTuner(LoraOptions(rank=4)),
        "pissa": lambda: lora.LoraTuner(LoraOptions(rank=4, init="pissa")),
        "dora": lambda: lora.LoraTuner(LoraOptions(rank=4, dora=True, modules_to_save=["lm_head"])),
    }
    check_tuner(builds[name], tiny_checkpoint(tmp_path / "base", vocab=300), tmp_path / "out", AutoFamily())


def test_a_tuner_that_loses_what_it_trained_fails(tmp_path: Path) -> None:
    from tk_full.options import FullOptions

    class Lossy(full.FullTuner):  # type: ignore[misc]
        def load(self, model: LoadedModel, folder: Path) -> None:
            """Reads nothing."""

    with pytest.raises(AssertionError, match="saved and loaded, the outputs differ"):
        check_tuner(
            lambda: Lossy(FullOptions()), tiny_checkpoint(tmp_path / "base", vocab=300), tmp_path / "out", AutoFamily()
        )


# --- engines ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    from tk_transformers.options import TransformersOptions

    model = AutoFamily().load(str(tiny_checkpoint(tmp_path / "m", vocab=300)))
    return engines.TransformersEngine(TransformersOptions(), model=model)


PROMPTS = ([40, 41, 42], [60, 61, 62, 63, 64])


def test_the_transformers_engine_passes(engine: Any) -> None:
    check_engine(engine, PROMPTS, most=engine.model.max_length)


@dataclass
class Careless:
    """An engine that forgets one part of a request."""

    engine: Any
    forgets: str

    def _known(self, request: Request) -> Request:
        if self.forgets == "stop_ids":
            return replace(request, stop_ids=(299,))
        if self.forgets == "room":
            return replace(request, ids=request.ids[:500])
        values = {"seed": None, "max_tokens": 5, "stop": ()}
        return replace(request, sampling=replace(request.sampling, **{self.forgets: values[self.forgets]}))

    def add(self, request: Request) -> int:
        return self.engine.add(self._known(request))  # type: ignore[no-any-return]

    def step(self) -> Sequence[Delta]:
        return self.engine.step()  # type: ignore[no-any-return]

    def cancel(self, key: int) -> None:
        self.engine.cancel(key)


@pytest.mark.parametrize(
    ("forgets", "message"),
    [
        ("seed", "seed"),
        ("max_tokens", "gave 5 tokens"),
        ("stop", "stop string"),
        ("stop_ids", "a stop token does not"),
        ("room", "without room"),
    ],
)
def test_an_engine_that_forgets_fails(engine: Any, forgets: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_engine(Careless(engine, forgets), PROMPTS, most=engine.model.max_length)  # type: ignore[arg-type]


# --- losses -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nll:
    unit: ClassVar[str] = "token"
    wants: ClassVar[tuple[Stat, ...]] = (Stat("logps"),)

    def __call__(self, stats: Any, fields: Any, reduce: Any) -> Any:
        return reduce(-fields["token_weights"] * stats["logps"])


class Mean(Nll):
    def __call__(self, stats: Any, fields: Any, reduce: Any) -> Any:
        return super().__call__(stats, fields, reduce) / len(stats["logps"])


class Scalar(Nll):
    def __call__(self, stats: Any, fields: Any, reduce: Any) -> Any:
        return super().__call__(stats, fields, reduce).sum()


class Unweighted(Nll):
    def __call__(self, stats: Any, fields: Any, reduce: Any) -> Any:
        return reduce(-stats["logps"])


class Infinite(Nll):
    def __call__(self, stats: Any, fields: Any, reduce: Any) -> Any:
        return reduce(fields["token_weights"] * (stats["logps"] * 0).sqrt())


def test_a_loss_that_keeps_the_contract_passes() -> None:
    check_loss(Nll())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Mean(), "weight 0 change the loss"),
        (Scalar(), r"shape \(\)"),
        (Unweighted(), "weight 0 change the loss"),
        (Infinite(), "gradient of logps is infinite"),
    ],
)
def test_losses_that_break_it_fail(loss: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_loss(loss)
