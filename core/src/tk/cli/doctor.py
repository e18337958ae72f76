"""`tk doctor`: what works here, what does not, and what mends it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tk.cli.output import as_json, table


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what works here and what does not: the machine, versions, plugins, and what can be used of them.

    Ends with 1 where something that is chosen by default cannot be used.
    """
    from tk.doctor import examine

    report = examine()
    if json:
        as_json({"ok": report.ok, **_plain(report)})
    else:
        _print(report)
    if not report.ok:
        sys.exit(1)


def _plain(report: Any) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(report)
    components = zip(plain["components"], report.components, strict=True)
    return {**plain, "components": [{**row, "usable": component.usable} for row, component in components]}


def _print(report: Any) -> None:
    for name, text in report.machine.items():
        print(f"{name:<8}{text}")
    print()
    versions = [
        {"name": p.name, "version": p.version or "missing", "by": f"{len(p.wanted_by)} ({_some(p.wanted_by)})"}
        for p in report.packages
    ]
    table(versions, {"name": "PACKAGE", "version": "VERSION", "by": "NEEDED BY"})
    print()
    states = [{"name": p.distribution, "version": p.version, "state": p.state} for p in report.plugins]
    table(states, {"name": "PLUGIN", "version": "VERSION", "state": "STATE"}, empty="No plugin is installed.")
    print()
    parts = [
        {"kind": c.kind, "name": f"{c.name} (default)" if c.default else c.name, "usable": "yes" if c.usable else "no"}
        for c in report.components
    ]
    table(parts, {"kind": "KIND", "name": "NAME", "usable": "USABLE HERE"}, empty="No component is installed.")
    told = [*_problems(report)]
    if told:
        print("\n" + "\n".join(told))
    print(f"\n{'Nothing that is chosen by default is broken.' if report.ok else 'Broken: what is chosen by default.'}")
    for line in report.broken:
        print(f"  {line}")


def _some(names: Sequence[str]) -> str:
    """The first of them; --json has all."""
    return ", ".join([*names[:3], "…"] if len(names) > 3 else names)


def _problems(report: Any) -> list[str]:
    """A line on everything that is not in order, in full."""
    plugins = [
        f"{p.distribution} ({p.state}): {': '.join(filter(None, (p.why, p.mend)))}"
        for p in report.plugins
        if p.state not in ("ok", "disabled")
    ]
    notes = [f"{p.distribution}: {note}" for p in report.plugins for note in p.notes]
    packages = [f"{p.name} {p.version or 'is missing'}: {p.wrong}" for p in report.packages if p.wrong]
    parts = [f"{c.name} of {c.kind} cannot be used here: {c.why}" for c in report.components if not c.usable]
    return [*plugins, *notes, *packages, *parts]
