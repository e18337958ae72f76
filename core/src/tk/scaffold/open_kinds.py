"""Templates for a kind that a plugin brings: a class with the methods of the kind's contract, to be filled in."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from tk.specs import KindSpec
from tk.testing.contracts import members

_COMPONENT = '''"""The $singular `$name`."""

from __future__ import annotations

from $module.options import $options


class $cls:
    """Say here what it does, and what its arguments and results are."""

    def __init__(self, options: $options, **context: object) -> None:
        self.options = options
'''

_OPTIONS = '''"""Options of the $singular `$name`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class $options:
    """What users may set."""

    strength: Annotated[float, doc("How much of it.", ge=0)] = 1.0
'''

_TEST = '''"""What tests can check of any kind; `-p tk.testing.plugin` (pyproject.toml) adds the checks of the package."""

from $module.$file import $cls
from $module.options import $options


def test_it_is_built_from_its_options():
    assert $cls($options(strength=0.5)).options.strength == 0.5
'''


def open_kind(kind: KindSpec) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """(recipe, template texts) in the form of the folders in `templates/`."""
    article = "An" if kind.singular[0] in "aeiou" else "A"
    recipe: dict[str, Any] = {
        "summary": f"{article} {kind.singular}; say in one line what it does.",
        "use": f"tk {kind.name} show $name",
    }
    package = kind.spec.__module__.partition(".")[0]
    if package != "tk":
        recipe |= {"dependencies": _distribution(package)}
    component = _COMPONENT + "".join(_stub(name, method) for name, method in _methods(kind).items())
    return recipe, {"component.py.tmpl": component, "options.py.tmpl": _OPTIONS, "test.py.tmpl": _TEST}


def _distribution(package: str) -> list[str]:
    from importlib.metadata import packages_distributions

    return sorted(set(packages_distributions().get(package, ())))


def _methods(kind: KindSpec) -> Mapping[str, Any]:
    if not kind.contract:
        return {}
    module, _, name = kind.contract.partition(":")
    return members(getattr(import_module(module), name))


def _stub(name: str, method: Any) -> str:
    """A method of the contract that says that it is still to be written. Types are left to the author."""
    if method is None:
        return f"        self.{name} = None\n"
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in inspect.signature(method).parameters.values()]
    head = "async def" if inspect.iscoroutinefunction(method) else "def"
    text = (inspect.getdoc(method) or f"As the contract of the kind says: {name}.").split("\n")[0].replace("$", "$$")
    body = f'        """{text}"""\n        raise NotImplementedError("{name} is still to be written")\n'
    return f"\n    {head} {name}{inspect.Signature(parameters)}:  # type: ignore[no-untyped-def]\n{body}"
