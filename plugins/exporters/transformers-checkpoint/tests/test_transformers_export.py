"""An export opens in plain transformers with the trained logits; one that would not is refused and leaves nothing."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tk.errors import TkError
from tk_auto.family import AutoFamily
from tk_conformance.models import checkpoint_keys
from tk_conformance.tiny import tiny_checkpoint
from tk_transformers_checkpoint.exporter import TransformersExporter


@pytest.fixture
def base(tmp_path):
    return tiny_checkpoint(tmp_path / "base", vocab=300)


@pytest.fixture
def export(tmp_path):
    def run(model, family=None):
        return TransformersExporter().export(model, tmp_path / "out", family=family or AutoFamily())

    return run


def test_the_folder_is_the_trained_model_with_the_bases_keys(base, export):
    model = AutoFamily().load(str(base))
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.mul_(1.01)
    folder = export(model)
    again = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.arange(20)[None]
    assert torch.equal(again(ids).logits, model.module.eval()(ids).logits)
    assert checkpoint_keys(folder) == checkpoint_keys(base)
    assert AutoTokenizer.from_pretrained(folder)("a b")["input_ids"] == model.tokenizer("a b")["input_ids"]


class Forgetful(AutoFamily):
    """A family whose checkpoints are not what was trained."""

    def save(self, model, folder, weights=None):
        super().save(model, folder, ((n, t * 0.5) for n, t in model.module.state_dict().items()))


def test_an_export_that_computes_something_else_is_refused_and_leaves_nothing(base, export, tmp_path):
    with pytest.raises(TkError, match="computes other logits"):
        export(AutoFamily().load(str(base)), Forgetful())
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_an_export_with_other_keys_than_the_base_names_them(base, export, tmp_path):
    model = AutoFamily().load(str(base))
    config = json.loads((base / "config.json").read_text())
    other = tiny_checkpoint(tmp_path / "other", vocab=300, layers=config["num_hidden_layers"] + 1)
    model.path = str(other)
    with pytest.raises(TkError, match=r"keys lost: \['model.layers.2"):
        export(model)
    assert not (tmp_path / "out").exists()
