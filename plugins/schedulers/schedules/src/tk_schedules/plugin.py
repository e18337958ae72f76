"""What this package adds to tk."""

from collections.abc import Iterable

from tk import SchedulerSpec, hookimpl


@hookimpl
def tk_schedulers() -> Iterable[SchedulerSpec]:
    yield SchedulerSpec(
        name="constant",
        target="tk_schedules.schedules:Constant",
        config="tk_schedules.options:ConstantOptions",
        summary="The same learning rate after a warm-up.",
    )
    yield SchedulerSpec(
        name="linear",
        target="tk_schedules.schedules:linear",
        config="tk_schedules.options:LinearOptions",
        summary="Down in a straight line.",
    )
    yield SchedulerSpec(
        name="cosine",
        target="tk_schedules.schedules:cosine",
        config="tk_schedules.options:CosineOptions",
        summary="Down along half a cosine, to a floor.",
    )
    yield SchedulerSpec(
        name="polynomial",
        target="tk_schedules.schedules:polynomial",
        config="tk_schedules.options:PolynomialOptions",
        summary="Down with a power of what remains.",
    )
    yield SchedulerSpec(
        name="wsd",
        aliases=("warmup-stable-decay",),
        target="tk_schedules.schedules:WarmupStableDecay",
        config="tk_schedules.options:WarmupStableDecayOptions",
        summary="Warm up, stay, and decay at the end (arXiv:2404.06395).",
    )
