"""Registers the launcher `slurm`."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import LauncherSpec


@hookimpl
def tk_launchers() -> Iterable[LauncherSpec]:
    yield LauncherSpec(
        name="slurm",
        target="tk_slurm.launcher:SlurmLauncher",
        config="tk_slurm.options:SlurmOptions",
        summary="A batch job of Slurm.",
        needs=("program:sbatch",),
    )
