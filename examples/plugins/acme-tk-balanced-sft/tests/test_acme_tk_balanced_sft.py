"""The objective of balanced-sft over unequal micro-batches, against a float64 loop that knows nothing of tk."""

import numpy as np
import pytest
import torch
from acme_tk_balanced_sft.method import BalancedSft
from acme_tk_balanced_sft.options import BalancedSftOptions
from torch.nn import functional as F

from tk.contracts import Example, Layout, Stat
from tk.errors import UsageError
from tk_tensor.collate import reduce_for

VOCAB = 17
LENGTHS = (3, 9, 2, 5, 7)


class Nll:
    """Cross entropy, so that the test needs no other plugin."""

    unit, scope, wants = "token", "row", (Stat("logps"),)

    def __call__(self, stats, fields, reduce):
        return reduce(-fields["token_weights"] * stats["logps"])


class Pairs(Nll):
    unit = "pair"


def example(length, generator):
    weights = np.ones(length, dtype=np.float32)
    weights[0] = 0
    ids = generator.integers(1, VOCAB, length).astype(np.int32)
    counts = {"nll": float(length - 1), "nll/by-answer": 1.0}
    return Example(length, {"ids": ids, "weights": weights}, counts)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("packing", [False, True])
def test_two_normalisers_over_a_whole_step(share, packing):
    generator = np.random.default_rng(0)
    examples = [example(length, generator) for length in LENGTHS]
    table = torch.randn(
        VOCAB, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True
    )

    answers = [
        F.cross_entropy(
            table[torch.from_numpy(e.values["ids"][:-1]).long()],
            torch.from_numpy(e.values["ids"][1:]).long(),
            reduction="none",
        )
        for e in examples
    ]
    by_token = torch.cat(answers).mean()
    by_answer = torch.stack([a.mean() for a in answers]).mean()
    reference = (1 - share) * by_token + share * by_answer
    wanted = torch.autograd.grad(reference, table)[0]

    method = BalancedSft(BalancedSftOptions(by_answer=share), {"nll": (1.0, Nll())})
    rows = [[[examples[0], examples[1]], [examples[2]]], [[examples[3], examples[4]]]]
    if not packing:
        rows = [[[examples[0]], [examples[1]], [examples[2]]], [[examples[3]], [examples[4]]]]
    batches = [method.collate(part, Layout(pad_id=0, packing=packing)) for part in rows]
    totals = {key: sum(batch.weights[key] for batch in batches) for key in ("nll", "nll/by-answer")}
    assert totals == {"nll": float(sum(LENGTHS) - len(LENGTHS)), "nll/by-answer": float(len(LENGTHS))}

    objective = 0.0
    for batch in batches:
        before = batch.inputs["input_ids"].reshape(-1)[batch.fields["select"]]
        logps = F.log_softmax(table[before], -1).gather(1, batch.fields["targets"][:, None]).squeeze(1)
        step = method.loss({"policy": {"logps": logps}}, batch, reduce_for(batch))
        objective = objective + sum(term.coef * term.sum / totals[name] for name, term in step.terms.items())
    torch.testing.assert_close(objective, reference, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(objective, table)[0], wanted, rtol=1e-10, atol=1e-12)


def test_a_row_without_trained_tokens_adds_zero_not_nan():
    silent = Example(4, {"ids": np.arange(4, dtype=np.int32), "weights": np.zeros(4, np.float32)}, {"nll": 0.0})
    method = BalancedSft(BalancedSftOptions(), {"nll": (1.0, Nll())})
    batch = method.collate([[silent]], Layout(pad_id=0))
    step = method.loss({"policy": {"logps": torch.tensor([-2.0])}}, batch, reduce_for(batch))
    assert [float(term.sum) for term in step.terms.values()] == [0.0, 0.0]


def test_a_loss_that_does_not_count_tokens_is_refused():
    with pytest.raises(UsageError, match=r"losses\.pairs"):
        BalancedSft(BalancedSftOptions(), {"pairs": (1.0, Pairs())})
