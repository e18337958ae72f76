"""The optimizers update as the formulas say, with each group's own learning rate and weight decay."""

import pytest
import torch

from tk.contracts import ParamGroup
from tk.errors import UsageError
from tk_torch_optimizers.factories import Adafactor, AdamW, Sgd
from tk_torch_optimizers.options import AdafactorOptions, AdamWOptions, SgdOptions


def _parameter(*values: float) -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.tensor(values, dtype=torch.float32))
    parameter.grad = torch.tensor([0.5 * v + 1 for v in values])
    return parameter


def test_adamw_takes_the_step_of_the_paper() -> None:
    parameter = _parameter(1.0, -2.0)
    start, gradient = parameter.detach().double().clone(), parameter.grad.double().clone()
    options = AdamWOptions(lr=0.1, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.2)
    AdamW(options)([ParamGroup([parameter])]).step()
    # after one step the bias-corrected moments are the gradient and its square
    expected = start * (1 - 0.1 * 0.2) - 0.1 * gradient / (gradient.abs() + 1e-6)
    torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-6, atol=1e-7)


def test_sgd_with_momentum_takes_the_classic_steps() -> None:
    parameter = _parameter(1.0, 3.0)
    gradient = parameter.grad.clone()
    optimizer = Sgd(SgdOptions(lr=0.1, momentum=0.9))([ParamGroup([parameter])])
    optimizer.step()
    optimizer.step()
    expected = torch.tensor([1.0, 3.0]) - 0.1 * gradient - 0.1 * 1.9 * gradient
    torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.parametrize(
    "factory", [AdamW(AdamWOptions(lr=0.01)), Sgd(SgdOptions(lr=0.01)), Adafactor(AdafactorOptions(lr=0.01))]
)
def test_groups_have_their_own_rate_and_decay(factory) -> None:
    groups = [ParamGroup([_parameter(1.0)], lr_scale=16, name="b"), ParamGroup([], name="none")]
    (group,) = factory(groups).param_groups
    assert group["lr"] == pytest.approx(0.16)
    assert group["name"] == "b"


def test_decay_is_left_out_where_a_group_says_so() -> None:
    groups = [ParamGroup([_parameter(1.0)]), ParamGroup([_parameter(1.0)], decay=False)]
    optimizer = AdamW(AdamWOptions(weight_decay=0.3))(groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def test_adamw_is_fused_on_the_cpu() -> None:
    assert AdamW(AdamWOptions())([ParamGroup([_parameter(1.0)])]).param_groups[0]["fused"] is True


def test_adafactor_keeps_factored_moments() -> None:
    parameter = torch.nn.Parameter(torch.ones(6, 4))
    parameter.grad = torch.rand(6, 4)
    optimizer = Adafactor(AdafactorOptions())([ParamGroup([parameter])])
    optimizer.step()
    assert sum(v.numel() for v in optimizer.state[parameter].values()) < parameter.numel()


def test_nothing_to_train_and_nesterov_without_momentum_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="Nothing is trained"):
        AdamW(AdamWOptions())([ParamGroup([])])
    with pytest.raises(UsageError, match="momentum"):
        Sgd(SgdOptions(nesterov=True))
