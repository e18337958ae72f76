"""Questions that run a stranger's code, for a process of their own: `python -m tk.probe QUESTION`, with JSON on standard input.

What imports plugins, components or torch may print, exit, crash or never return; who asks is not affected (tk.doctor).
Answers are lines of JSON on standard output; the last of them is END, so that a process which ends before it is known.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

from tk import entries, plugins
from tk.registry import Component

Tell = Callable[[Any], None]
END = {"end": True}


def discover(asked: Mapping[str, Any], tell: Tell) -> None:
    """Every plugin, component and kind. `only`, `without`: [distribution, entry point] pairs.

    Before a plugin is loaded it is told ("loading"), so that one which ends the process is known.
    """

    def found() -> Iterator[EntryPoint]:
        for entry in entries.every():
            pair = [entry.dist.name if entry.dist else "", entry.name]
            if pair not in asked["without"] and (asked["only"] is None or pair in asked["only"]):
                tell({"loading": pair})
                yield entry
        tell({"loading": None})

    registry = plugins.load(replace(plugins.Selection.from_environment(), strict=False), found=found())
    for plugin in registry.plugins:
        tell(
            {
                "plugin": plugin.distribution,
                "name": plugin.name,
                "version": plugin.version,
                "state": plugin.status,
                "problem": plugin.reason,
                "mend": plugin.mend,
                "notes": plugin.notes,
                "components": plugin.components,
            }
        )
    for kind in registry.kinds.values():
        tell({"kind": kind.name, "singular": kind.singular, "default": kind.default if kind.section else ""})
        for component in registry.all(kind.name):
            tell(_component(component))


def _component(component: Component) -> dict[str, Any]:
    references = (component.spec.target, component.spec.config)
    return {
        "component": component.name,
        "of": component.kind.name,
        "names": [component.name, *component.spec.aliases],
        "distribution": component.distribution,
        "lacks": component.lacks(),
        "imports": [reference for reference in references if isinstance(reference, str)],
    }


def imports(asked: Sequence[Sequence[str]], tell: Tell) -> None:
    """Of each list of "module:attribute", why one of them cannot be had; "" where all can."""
    for references in asked:
        try:
            for module, _, attribute in (reference.partition(":") for reference in references):
                getattr(importlib.import_module(module), attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a module may exit or raise anything at all
            tell(f"{type(error).__name__}: {' '.join(str(error).split())}")
        else:
            tell("")


def torch(asked: Any, tell: Tell) -> None:
    """What torch says of itself and of the devices that it sees."""
    module: Any = importlib.import_module("torch")
    cuda = module.cuda.is_available()
    tell(
        {
            "version": module.__version__,
            "threads": module.get_num_threads(),
            "cuda": module.version.cuda or "",
            "devices": [module.cuda.get_device_name(i) for i in range(module.cuda.device_count())] if cuda else [],
            "mps": bool(getattr(module.backends, "mps", None) and module.backends.mps.is_available()),
        }
    )


QUESTIONS: Mapping[str, Callable[[Any, Tell], None]] = {"discover": discover, "imports": imports, "torch": torch}


def main() -> None:
    """Answers go to the standard output that was given; what is printed meanwhile goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)

        def tell(answer: Any) -> None:
            print(json.dumps(answer), file=answers, flush=True)

        QUESTIONS[sys.argv[1]](json.load(sys.stdin), tell)
        tell(END)


if __name__ == "__main__":
    main()
