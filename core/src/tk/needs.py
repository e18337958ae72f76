"""What a component needs to be here beside its package (`Spec.needs`), asked for without importing anything of it.

"module:NAME" is a top-level module that this interpreter can import, "program:NAME" a program on the path.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterable
from importlib.util import find_spec

MODULE, PROGRAM = "module", "program"
_FORM = re.compile(rf"(?:{MODULE}:[A-Za-z_]\w*|{PROGRAM}:[\w.+-]+)")


def is_need(word: str) -> bool:
    """Whether a word has the form of a need."""
    return _FORM.fullmatch(word) is not None


def absent(words: Iterable[str]) -> list[str]:
    """Those of the words that are not here, in their order."""
    return [word for word in words if not _is_here(word)]


def _is_here(word: str) -> bool:
    what, _, name = word.partition(":")
    if what == PROGRAM:
        return shutil.which(name) is not None
    try:
        return find_spec(name) is not None
    except ValueError:  # it is imported already, and says nothing of where from
        return True


def described(words: Iterable[str]) -> str:
    """Needs in words: "the module 'wandb' and the program 'sbatch'"."""
    return " and ".join(f"the {what} {name!r}" for what, _, name in (word.partition(":") for word in words))


def install(what: str) -> str:
    """The command that installs what is named, packages after options of pip."""
    return shlex.join(["pip", "install", *what.split()])


def mend(words: Iterable[str], extra: str = "") -> str:
    """What puts them here, as a command where there is one. `extra`: what to install for the modules (`Spec.extra`)."""
    named = [word.partition(":") for word in words]
    modules = [name for what, _, name in named if what == MODULE]
    commands = [install(extra or " ".join(modules))] if modules else []
    commands += [f"put {name} on the path" for what, _, name in named if what == PROGRAM]
    return ", and ".join(commands)
