"""What a run writes as it ends: what was trained (`final/`, which peft or transformers opens), and its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from tk.compose import Plan
from tk.contracts import Strategy
from tk.files import explained
from tk_torch import files
from tk_torch.assemble import Parts
from tk_torch.session import role_weights

VALUE_HEAD, HEAD = "value_head.safetensors", "v_head.summary"
"""The file of a value head on another role's module, and what the names of its tensors begin with."""


def final_weights(plan: Plan, parts: Parts, module: nn.Module, strategy: Strategy) -> dict[str, Mapping[str, Tensor]]:
    """What each tuner writes, by role: gathered, since a process may hold a part of each tensor only."""
    weights, heads = strategy.weights, parts.scored.heads_by_role.items()
    of_heads = {role: dict(weights(head, trainable=True)) for role, head in heads}
    if "whole-model" not in plan.one("tuner").component.spec.supports:
        return role_weights(parts, dict(weights(module, trainable=True))) | of_heads
    modules = {role: parts.models[role].module for role in parts.tuners}
    return {role: dict(weights(module, trainable=False)) for role, module in modules.items()} | of_heads


def write_final(folder: Path, parts: Parts, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """What each tuner has trained, in the form that peft or transformers opens; other roles in folders of their own.

    A head on another role's module has a file as TRL's models with a value head named it.
    """

    def fill(into: Path) -> None:
        for role, tuner in parts.tuners.items():
            own = into if role == parts.first else into / role
            own.mkdir(exist_ok=True)
            tuner.save(parts.models[role], own, weights[role])
        for role in parts.scored.heads_by_role:
            (into / role).mkdir()
            save_file({f"{HEAD}.{n}": value for n, value in weights[role].items()}, into / role / VALUE_HEAD)

    files.write_folder(folder, fill, manifest=False)


def draw(plan: Plan, folder: Path) -> None:
    """The report of a run that has ended, and its curve, as the config asks for them."""
    settings = plan.config.report
    if settings.html or settings.plot:
        from tk_report import write_report  # what it draws with is not needed before

        with explained(folder / "report.html"):
            write_report(folder, html=settings.html, plot=settings.plot)
