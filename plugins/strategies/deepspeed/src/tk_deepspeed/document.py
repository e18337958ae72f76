"""DeepSpeed's config: the presets, a user's own file, and what tk's config says in the place of "auto".

Rates, schedule, clipping, accumulation and averaging are tk's: the objective carries all its factors before the first
backward, so that nothing in this config may rescale a gradient.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tk.errors import UsageError, nearest
from tk_deepspeed.options import DeepspeedOptions

AUTO = "auto"
ZERO = "zero_optimization"

_CPU = {"device": "cpu", "pin_memory": True}
_SHARED = {"reduce_bucket_size": AUTO, "overlap_comm": False, "contiguous_gradients": True}
_STAGE_3 = {
    "stage": 3,
    **_SHARED,
    "stage3_prefetch_bucket_size": AUTO,
    "stage3_param_persistence_threshold": AUTO,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    name: {"bf16": {"enabled": AUTO}, "gradient_clipping": AUTO, ZERO: zero}
    for name, zero in {
        "zero0": {"stage": 0},
        "zero1": {"stage": 1, **_SHARED},
        "zero2": {"stage": 2, **_SHARED},
        "zero3": _STAGE_3,
        "zero2_offload": {"stage": 2, **_SHARED, "offload_optimizer": _CPU},
        "zero3_offload": {**_STAGE_3, "offload_optimizer": _CPU, "offload_param": _CPU},
    }.items()
}
DEFAULT = "zero2"

_BATCHES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
_PASSED = (
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "communication_data_type",
    "data_types",
    "steps_per_print",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
    "comms_logger",
    "flops_profiler",
    "disable_python_gc",
    "log_level",
)
_TAKEN = (*_BATCHES, *_PASSED, ZERO, "bf16", "fp16", "optimizer", "gradient_clipping")
_NEUTRAL: Mapping[str, Any] = {
    "prescale_gradients": False,
    "gradient_predivide_factor": 1.0,
    "gradient_allreduce_op": "mean",
    "managed_gradient_accumulation": True,
}
_INSTEAD = (
    ("scheduler", "the schedule is tk's: --scheduler NAME"),
    ("amp torch_autocast", "the precision is tk's: --train.precision"),
    ("activation_checkpointing", "tk recomputes activations by --train.gradient-checkpointing true"),
    ("tensorboard wandb csv_monitor comet", "figures go to tk's trackers: --trackers"),
    ("checkpoint nebula", "checkpoints are tk's own, and fit every strategy"),
    (" ".join(_NEUTRAL), "tk's objective carries its factors already, and nothing may rescale a gradient"),
)
_WHOLE = "a checkpoint is gathered from the partitions in memory, which this would take elsewhere or round"
_ZERO_REFUSED: Mapping[str, tuple[Any, str]] = {
    "zenflow": (None, _WHOLE),
    "zero_quantized_weights": (False, "it rounds the weights"),
    "zero_quantized_nontrainable_weights": (False, "it rounds the weights"),
    "zero_quantized_gradients": (False, "it rounds the gradients"),
    "zero_hpz_partition_size": (1, _WHOLE),
    "round_robin_gradients": (False, "a checkpoint would not know which weights a partition holds"),
    "elastic_checkpoint": (False, "checkpoints are tk's own"),
    "legacy_stage1": (False, "DeepSpeed no longer has it"),
    "compute_grad_norm": (True, "steps without finite gradients are found by the norm"),
}
"""Keys of zero_optimization -> the only value that they may have, and why."""
_OFFLOAD_REFUSED: Mapping[str, Any] = {"ratio": 1.0, "super_offload": False, "fast_init": False}
_BF16_REFUSED = ("bf16_master_weights_and_grads", "bf16_optimizer_states")


@dataclass(frozen=True)
class Facts:
    """What stands for "auto". optimizer: name of its class. hidden: size of the model's hidden states, where it is known."""

    precision: str
    max_norm: float | None
    optimizer: str
    hidden: int | None


@dataclass(frozen=True)
class Document:
    """A DeepSpeed config as it was given. where: what errors call it."""

    where: str
    tree: Mapping[str, Any]

    @property
    def stage(self) -> int:
        return int(self.tree.get(ZERO, {}).get("stage", 0))

    def filled(self, facts: Facts) -> dict[str, Any]:
        """What DeepSpeed is given. Raises UsageError where it and tk's config do not agree."""
        found = {key: self.tree[key] for key in _PASSED if key in self.tree}
        found |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
        found |= {"gradient_clipping": self._clipping(facts), ZERO: self.zero(facts.hidden)}
        found.setdefault("zero_allow_untested_optimizer", True)  # what it must be like is among the plan's capabilities
        found.setdefault("zero_force_ds_cpu_optimizer", False)
        if self.in_bf16(facts.precision):
            found["bf16"] = {"check_grad_overflow": True, **self.tree["bf16"], "enabled": True}
            found["data_types"] = {"grad_accum_dtype": "fp32", **self.tree.get("data_types", {})}
            found.setdefault("communication_data_type", "fp32")
        self._check_optimizer(facts)
        self._check_auto(found, "")
        return found

    def check(self) -> None:
        """Raises UsageError for what can be told without a model."""
        for key, value in self.tree.items():
            if key in _NEUTRAL and value == _NEUTRAL[key]:
                continue
            instead = next((text for words, text in _INSTEAD if key in words.split()), "")
            if instead:
                raise UsageError(f"{self.where}: {key}: {instead}. Remove it.")
            if key not in _TAKEN:
                raise UsageError(f"{self.where}: {key}: this strategy does not take it.{nearest(key, _TAKEN)}")
            if key in _BATCHES and not _is_auto(value):
                raise UsageError(
                    f"{self.where}: {key}: rows of a step and of a forward are train.batch_size and "
                    'train.micro_batch_size: write "auto", or remove it.'
                )
        for section in (ZERO, "bf16", "fp16", "optimizer"):
            if not isinstance(self.tree.get(section, {}), Mapping):
                raise UsageError(f"{self.where}: {section}: it must be an object.")
        self._check_zero()
        self._check_sixteen()

    def _check_zero(self) -> None:
        zero = self.tree.get(ZERO, {})
        stage = zero.get("stage", 0)
        if stage not in (0, 1, 2, 3):
            raise UsageError(f"{self.where}: {ZERO}.stage: it must be 0, 1, 2 or 3, not {stage!r}.")
        for key, (only, why) in _ZERO_REFUSED.items():
            if key in zero and zero[key] != only:
                raise UsageError(f"{self.where}: {ZERO}.{key}: {why}. Remove it.")
        for key, least in (("offload_optimizer", 1), ("offload_param", 3)):
            self._check_offload(key, zero.get(key) or {}, stage, least)

    def _check_offload(self, key: str, offload: Mapping[str, Any], stage: int, least: int) -> None:
        device = offload.get("device", "none")
        if device == "none":
            return
        path = f"{self.where}: {ZERO}.{key}"
        if device != "cpu":
            raise UsageError(f'{path}.device: only "cpu" works here, not {device!r}: {_WHOLE}.')
        if stage < least:
            raise UsageError(
                f"{path}: it needs stage {least}{' or more' if least < 3 else ''}, and this is stage {stage}."
            )
        for name, only in _OFFLOAD_REFUSED.items():
            if offload.get(name, only) != only:
                raise UsageError(f"{path}.{name}: {_WHOLE}. Remove it.")

    def _check_sixteen(self) -> None:
        if self.tree.get("fp16", {}).get("enabled", False) not in (False, AUTO):
            raise UsageError(
                f"{self.where}: fp16.enabled: losses are scaled at stage 0 only, by --train.precision fp16: use bf16."
            )
        for key in _BF16_REFUSED:
            if self.tree.get("bf16", {}).get(key):
                raise UsageError(f"{self.where}: bf16.{key}: small updates would be rounded away. Remove it.")

    def in_bf16(self, precision: str) -> bool:
        """Whether DeepSpeed holds the weights in bf16, with what is updated in fp32; else they are fp32."""
        wish = self.tree.get("bf16", {}).get("enabled", False)
        if wish is True and precision != "bf16":
            raise UsageError(
                f'{self.where}: bf16.enabled: the run computes in {precision} (train.precision): write "auto".'
            )
        if wish is True and self.stage == 0:
            raise UsageError(f'{self.where}: bf16.enabled: stage 0 keeps its weights in fp32: write "auto".')
        return bool(wish) and precision == "bf16" and self.stage > 0

    def _clipping(self, facts: Facts) -> float:
        wish, norm = self.tree.get("gradient_clipping", AUTO), facts.max_norm or 0.0
        if wish not in (AUTO, norm):
            raise UsageError(
                f'{self.where}: gradient_clipping: it is {wish}, and train.max_grad_norm {facts.max_norm}: write "auto".'
            )
        return norm if self.stage else 0.0  # at stage 0 it is done before the engine steps

    def zero(self, hidden: int | None) -> dict[str, Any]:
        """The section of partitions, sizes that follow from the model filled in."""
        sizes = {}
        if hidden:
            square = hidden * hidden
            sizes = {
                "reduce_bucket_size": square,
                "stage3_prefetch_bucket_size": int(0.9 * square),
                "stage3_param_persistence_threshold": 10 * hidden,
            }
        zero = dict(self.tree.get(ZERO, {}))
        for key in ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"):
            if _is_auto(zero.get(key)):
                zero.pop(key)  # DeepSpeed's own, where the model tells no size
                zero |= {key: sizes[key]} if key in sizes else {}
        return zero

    def _check_optimizer(self, facts: Facts) -> None:
        section = self.tree.get("optimizer", {})
        own = section.get("type", AUTO)
        if not _is_auto(own) and own.lower() != facts.optimizer.lower():
            raise UsageError(f"{self.where}: optimizer.type: it is {own}, and the run's is {facts.optimizer} (optim).")
        for key, value in section.get("params", {}).items():
            if not _is_auto(value):
                raise UsageError(
                    f'{self.where}: optimizer.params.{key}: the optimizer is tk\'s: give it under optim, and write "auto".'
                )

    def _check_auto(self, tree: Mapping[str, Any], path: str) -> None:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                self._check_auto(value, f"{path}{key}.")
            elif _is_auto(value) and key != "keep_in_fp32_modules":
                raise UsageError(f'{self.where}: {path}{key}: nothing in tk\'s config stands for "auto": give a value.')


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == AUTO


def document_of(options: DeepspeedOptions) -> Document:
    """The preset or the user's own file. Raises UsageError with the place in the file."""
    if options.config is None:
        preset = options.preset or DEFAULT
        return Document(f"strategy.preset {preset}", PRESETS[preset])
    if options.preset:
        raise UsageError("strategy.config: give this or strategy.preset, not both.")
    path = Path(options.config)
    try:
        tree = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise UsageError(f"strategy.config: {path} cannot be read: {error.strerror}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        place = f":{error.lineno}:{error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(f"{path}{place}: this is not JSON: {error}") from error
    except _Twice as error:
        raise UsageError(f"{path}: {error} stands there twice.") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: a DeepSpeed config is an object.")
    found = Document(str(path), tree)
    found.check()
    return found


class _Twice(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(repr(name) for name in names if names.count(name) > 1))
    return found
