"""Registers the launcher `local`."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import LauncherSpec


@hookimpl
def tk_launchers() -> Iterable[LauncherSpec]:
    yield LauncherSpec(
        name="local",
        target="tk_local_launcher.launcher:LocalLauncher",
        config="tk_local_launcher.options:LocalOptions",
        summary="Processes on this machine.",
    )
