"""Turns a kind and a name into a package folder. What is in it stands in `templates/`, one folder a kind."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from importlib import import_module
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Any

from tk.errors import TkError, UsageError
from tk.scaffold.open_kinds import open_kind
from tk.specs import KindSpec

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_SHARED = "package"


def write(kind: KindSpec, name: str, folder: Path) -> list[Path]:
    """Write the package `tk-plugin-<name>` into `folder`, which must not exist or be empty. Returns its files.

    All of it is written, or nothing. Raises UsageError for a name that cannot be one (with one that can), for a name
    that an installed package has, and for a folder that is in use.
    """
    check_name(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already: give another folder, or delete it.")
    contents = render(kind, name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for path, text in contents.items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_text(text, encoding="utf-8")
        work.chmod(0o755)
        work.replace(folder)
    except OSError as error:
        raise TkError(f"{folder}: the package cannot be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return sorted(folder / path for path in contents)


def check_name(name: str) -> None:
    """Raise UsageError unless the name can be a component's and a package's."""
    if not _NAME.fullmatch(name):
        words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower())
        better = "-".join(words).lstrip("0123456789-") or "my-plugin"
        raise UsageError(
            f"{name!r} is no name for a plugin: lower-case letters, digits and dashes, a letter first. "
            f"For example {better!r}."
        )
    module = module_of(name)
    if importlib.util.find_spec(module) is not None:
        raise UsageError(f"A package {module!r} is installed already: choose another name, for example 'my-{name}'.")


def module_of(name: str) -> str:
    """The import package of a plugin."""
    return "tk_" + name.replace("-", "_")


def render(kind: KindSpec, name: str) -> dict[Path, str]:
    """Path in the package -> text of each file."""
    home = files("tk.scaffold") / "templates"
    own = _templates(kind)
    recipe: Mapping[str, Any]
    if own:
        recipe = tomllib.loads((own / "recipe.toml").read_text("utf-8"))
        sources: Mapping[str, str] = {
            entry.name: entry.read_text("utf-8") for entry in own.iterdir() if entry.name.endswith(".tmpl")
        }
    else:
        recipe, sources = open_kind(kind)
    words = _words(kind, name, recipe)
    paths = {
        "component.py.tmpl": Path("src", words["module"], words["file"] + ".py"),
        "options.py.tmpl": Path("src", words["module"], "options.py"),
        "test.py.tmpl": Path("tests", f"test_{words['module'].removeprefix('tk_')}_conformance.py"),
    }
    shared = home / _SHARED
    source = Path("src", words["module"])
    texts = {paths.get(file, source / file.removesuffix(".tmpl")): text for file, text in sources.items()} | {
        source / "__init__.py": _read(shared, "init.py.tmpl"),
        source / "plugin.py": _read(shared, "plugin.py.tmpl"),
        Path("pyproject.toml"): _read(shared, "pyproject.toml.tmpl"),
        Path("README.md"): _read(shared, "README.md.tmpl"),
    }
    return {path: Template(text).substitute(words) for path, text in texts.items()}


def _templates(kind: KindSpec) -> Traversable | None:
    """The folder of a kind's templates: here for the kernel's kinds, else `scaffold/<kind>` of the package that owns it."""
    package = kind.spec.__module__.partition(".")[0]
    if package == "tk":
        own = files("tk.scaffold") / "templates" / kind.name
    elif hasattr(import_module(package), "__path__"):
        own = files(package) / "scaffold" / kind.name
    else:
        return None
    return own if own.is_dir() else None


def _read(folder: Traversable, name: str) -> str:
    return (folder / name).read_text("utf-8")


def _words(kind: KindSpec, name: str, recipe: Mapping[str, Any]) -> dict[str, str]:
    """What stands for the `$words` of the templates."""
    module = module_of(name)
    cls = "".join(part.capitalize() for part in name.split("-"))
    spec = kind.spec.__name__
    from_tk = kind.spec.__module__ == "tk.specs"
    summary = Template(recipe["summary"]).substitute(name=name)
    extra = "".join(f"\n        {line}," for line in recipe.get("spec", ()))
    attribute = name.replace("-", "_") if recipe.get("function") else cls
    return {
        "name": name,
        "distribution": f"tk-plugin-{name}",
        "module": module,
        "file": kind.singular.replace("-", "_"),
        "cls": cls,
        "target": attribute,
        "function": name.replace("-", "_"),
        "options": f"{cls}Options",
        "kind": kind.name,
        "singular": kind.singular,
        "hook": kind.hook,
        "spec": spec,
        "spec_import": f"from tk import {_also(recipe)}{spec}, hookimpl"
        if from_tk
        else f"from {kind.spec.__module__} import {spec}\n\nfrom tk import hookimpl",
        "config": "" if recipe.get("options") is False else f'\n        config="{module}.options:{cls}Options",',
        "spec_extra": Template(extra).substitute(name=name),
        "summary": summary,
        "use": Template(recipe["use"]).substitute(name=name),
        "dependencies": json.dumps(["tk-kernel>=0.1", *recipe.get("dependencies", ())]),
        "test_dependencies": json.dumps(["pytest>=8", *recipe.get("test_dependencies", ())]),
    }


def _also(recipe: Mapping[str, Any]) -> str:
    return "".join(f"{name}, " for name in recipe.get("imports", ()))
