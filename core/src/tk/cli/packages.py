"""`tk plugins install|uninstall|sync`: what would change is shown first. None of them imports a plugin."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tk.cli.output import as_json, table
from tk.errors import TkError, UsageError

if TYPE_CHECKING:
    from tk.packages import Asked, InstallPlan

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def install(
    plugin: Annotated[list[str], typer.Argument(help="NAME, NAME@VERSION, a folder (with a slash) or a wheel.")],
    editable: Annotated[bool, typer.Option("--editable", "-e", help="Run a folder's code as it stands there.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Install plugins beside what is there: none that would change another package."""
    from tk import packages
    from tk.installed import Installed

    there = Installed()
    _install([packages.read(word, there, editable=editable) for word in plugin], yes, dry_run, json)


def uninstall(
    plugin: Annotated[list[str], typer.Argument(help="Names of plugins.")],
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Remove plugins, however broken they are; says which other plugins need them."""
    from tk import packages
    from tk.installed import Installed

    there = Installed()
    names = list(dict.fromkeys(packages.removable(word, there) for word in plugin))
    needing = sorted({other for name in names for other in there.dependents(name)} - set(names))
    removed = [{"name": name, "before": there.copies[name][0].version} for name in names]
    if not json:
        table(removed, {"name": "REMOVE", "before": "VERSION"})
        if needing:
            print(f"\nThese need them and will be broken: {', '.join(needing)}")
    notes: list[str] = []
    if _agreed(yes, dry_run, json):
        notes = [note for name in names for note in packages.uninstall(name)]
    if json:
        as_json({"removed": removed, "dependents": needing, "notes": notes, "done": not dry_run})
    else:
        print("\n".join(notes), end="\n" if notes else "")


def sync(
    file: Annotated[Path, typer.Argument(help="A manifest: of `tk plugins list --freeze` or --json, or a run.json.")],
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Install the plugins that a manifest names, in its versions; says which others there are."""
    from tk import packages
    from tk.installed import Installed

    there = Installed()
    asked = packages.asked_by(file, there)
    others = packages.unnamed(asked, there)
    if others and not json:
        print(f"{file} does not name {', '.join(others)}: tk plugins uninstall NAME removes one.\n")
    _install(packages.different(asked, there), yes, dry_run, json, unnamed=others)


def freeze(*, json: bool) -> None:
    """Print a manifest."""
    from tk import packages
    from tk.installed import Installed

    if json:
        raise UsageError("--freeze: it prints lines; `tk plugins list --json` is a manifest too.")
    print("\n".join(packages.manifest(Installed())))


def _install(asked: Sequence[Asked], yes: bool, dry_run: bool, json: bool, **more: Any) -> None:
    from tk import packages

    made = packages.plan(asked) if asked else packages.InstallPlan((), ())
    rows = [{"name": c.name, "before": c.before, "after": c.after} for c in made.changes]
    if not json:
        _show(made, rows)
    if made.refused:
        if json:
            as_json({"changes": rows, "refused": made.refused, "done": False, **more})
        raise TkError(f"nothing was installed: {made.refused}.")
    brought = []
    if made.changes and _agreed(yes, dry_run, json):
        packages.install(made)
        brought = [packages.brought(one.name) for one in made.asked]
    if json:
        as_json({"changes": rows, "refused": "", "done": not dry_run, "brought": brought, **more})
    else:
        for one in brought:
            without = "broken" if one.problems else "a library: it has no components"
            print(f"{one.distribution}: {', '.join(one.components) or without}")
            for line in (*one.problems, *one.lacking):
                print(f"  {line}")
    if any(one.problems for one in brought):
        sys.exit(1)


def _show(made: InstallPlan, rows: Sequence[dict[str, str]]) -> None:
    if rows:
        table(
            [{**row, "before": row["before"] or "-"} for row in rows],
            {"name": "PACKAGE", "before": "NOW", "after": "THEN"},
        )
    elif not made.refused:
        print("Everything is there: nothing changes.")


def _agreed(yes: bool, dry_run: bool, json: bool) -> bool:
    """Whether to go on. Raises UsageError where nobody can be asked."""
    if dry_run or yes:
        return not dry_run
    if json or not sys.stdin.isatty():
        raise UsageError("nobody can be asked here: say --yes to go on, or --dry-run to look only.")
    if not typer.confirm("\nGo on?"):
        raise typer.Exit(1)
    return True
