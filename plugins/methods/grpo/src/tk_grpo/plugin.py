"""Registers the methods, and the kinds of their parts with the parts."""

from collections.abc import Iterable

from tk import KindSpec, MethodSpec, hookimpl
from tk_grpo.contracts import AdvantageSpec, AggregationSpec, ClipSpec, RatioSpec

PARTS = {"advantage": "advantage", "ratio": "ratio", "clip": "clip", "aggregation": "aggregation"}
GRPO = {
    "advantage.name": "group",
    "ratio.name": "token",
    "clip.name": "clip",
    "aggregation.name": "sequence",
    "sampling.n": 8,
    "sampling.temperature": 1.0,
}


@hookimpl
def tk_kinds() -> Iterable[KindSpec]:
    kinds = (
        ("advantages", "advantage", AdvantageSpec, "How much better an answer is than was to be expected."),
        ("ratios", "ratio", RatioSpec, "How much more probable an answer is than when it was sampled."),
        ("clips", "clip", ClipSpec, "How far the policy may move on one answer."),
        ("aggregations", "aggregation", AggregationSpec, "How tokens make up the objective of a step."),
    )
    for name, singular, spec, summary in kinds:
        contract = f"tk_grpo.contracts:{singular.capitalize()}"
        yield KindSpec(name=name, singular=singular, summary=summary, spec=spec, contract=contract, section=singular)


@hookimpl
def tk_methods() -> Iterable[MethodSpec]:
    presets: dict[str, tuple[str, dict[str, object]]] = {
        "grpo": ("Answers held against those of their group.", GRPO),
        "dapo": (
            "GRPO with clip-higher, the mean over all tokens of a step, no prompts that teach nothing, a penalty on length.",
            {
                **GRPO,
                "aggregation.name": "token",
                "clip.high": 0.28,
                "method.resample": 4,
                "method.overlong": 0.2,
            },
        ),
        "rloo": (
            "Each answer, as one action, held against the mean of the others; the divergence is taken off the reward.",
            {
                **GRPO,
                "advantage.name": "leave-one-out",
                "ratio.name": "sequence-sum",
                "method.kl": 0.05,
                "method.kl_in": "reward",
            },
        ),
    }
    for name, (summary, defaults) in presets.items():
        yield MethodSpec(
            name=name,
            target="tk_grpo.method:Grpo",
            config="tk_grpo.options:GrpoOptions",
            summary=summary,
            supports=("padding-left", "index-select", "shared-prefix"),
            uses=PARTS,
            defaults=defaults,
        )


@hookimpl
def tk_advantages() -> Iterable[AdvantageSpec]:
    yield AdvantageSpec(
        name="group",
        target="tk_grpo.advantages:Group",
        config="tk_grpo.options:GroupOptions",
        summary="Above the mean of the group, in its standard deviations.",
    )
    yield AdvantageSpec(
        name="leave-one-out",
        target="tk_grpo.build:leave_one_out",
        summary="Above the mean of the group's other answers.",
    )


@hookimpl
def tk_ratios() -> Iterable[RatioSpec]:
    yield RatioSpec(name="token", target="tk_grpo.build:token", summary="Each token's own.")
    yield RatioSpec(name="sequence", target="tk_grpo.build:sequence", summary="The mean over an answer's tokens.")
    yield RatioSpec(name="sequence-sum", target="tk_grpo.build:sequence_sum", summary="The answer as one action.")


@hookimpl
def tk_clips() -> Iterable[ClipSpec]:
    yield ClipSpec(
        name="clip",
        target="tk_grpo.objective:Clip",
        config="tk_grpo.options:ClipOptions",
        summary="The ratio within bounds, the upper one of its own where wanted.",
    )


@hookimpl
def tk_aggregations() -> Iterable[AggregationSpec]:
    yield AggregationSpec(
        name="sequence", target="tk_grpo.build:by_sequence", summary="Over tokens, then over answers."
    )
    yield AggregationSpec(name="token", target="tk_grpo.build:by_token", summary="Over all tokens of the step.")
    yield AggregationSpec(name="constant", target="tk_grpo.build:by_constant", summary="Over the most tokens possible.")
