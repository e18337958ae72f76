"""DiscoPOP, value and gradient, against TRL's trainer on the same pairs, however rows are laid out."""

import copy

import pytest
import torch
import trl
from acme_tk_discopop.loss import Discopop
from acme_tk_discopop.options import DiscopopOptions
from datasets import Dataset

from tk_conformance.losses import check_loss
from tk_conformance.parity import (
    LAYOUTS,
    TRAINER,
    batches_of,
    check_same,
    examples_of,
    gradient,
    moved,
    number_tokenizer,
    of_numbers,
    one_step,
    tiny_model,
)
from tk_dpo.method import Dpo
from tk_dpo.options import DpoOptions

PAIRS = [((5, 9, 7, 2), (11, 12, 13), (14, 15)), ((3, 8), (21, 22), (23, 24, 25, 26)), ((40, 41, 42), (7, 50), (7, 51))]


def of_trl(policy, reference, beta, tau, folder):
    config = trl.DPOConfig(
        output_dir=str(folder), loss_type=["discopop"], beta=beta, discopop_tau=tau, disable_dropout=False, **TRAINER
    )
    trainer = trl.DPOTrainer(
        model=copy.deepcopy(policy),
        ref_model=reference,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "w1", "chosen": "w2", "rejected": "w3"}]),
        processing_class=number_tokenizer(),
    )
    features = [{"prompt_ids": list(p), "chosen_ids": list(c), "rejected_ids": list(r)} for p, c, r in PAIRS]
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(features))
    loss.backward()
    return loss.item(), gradient(trainer.model)


@pytest.mark.parametrize(("beta", "tau"), [(0.1, 0.05), (0.5, 1.0)])
def test_values_and_gradients_are_trls(beta, tau, tmp_path):
    reference = tiny_model()
    policy = moved(copy.deepcopy(reference))
    expected = of_trl(policy, reference, beta, tau, tmp_path)

    method = Dpo(DpoOptions(reference="elsewhere"), {"discopop": (1.0, Discopop(DiscopopOptions(beta, tau)))})
    examples = examples_of(method, [of_numbers(*pair) for pair in PAIRS])
    for name, layout in LAYOUTS.items():
        batches = batches_of(method, examples, layout, first=2, micro=1)
        check_same(one_step(method, {"policy": policy, "reference": reference}, batches), expected, name)


def test_it_holds_what_every_loss_holds():
    check_loss(Discopop())


def test_it_is_logistic_far_below_and_exponential_far_above_the_reference():
    def value(margin):
        stats = {"logps": torch.tensor([margin, 0.0]), "reference.logps": torch.zeros(2)}
        (found,) = Discopop(DiscopopOptions(1.0, 0.01))(stats, {"token_weights": torch.ones(2)}, lambda values: values)
        return float(found)

    assert value(-2.0) == pytest.approx(2.126928, abs=1e-6)
    assert value(2.0) == pytest.approx(0.135335, abs=1e-6)
