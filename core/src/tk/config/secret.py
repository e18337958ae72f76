"""What of a config others may see: a run's trackers, and the files that are kept or passed on with its results.

Options that hold secrets say so (`doc(…, secret=True)`); of any address, user, password and tokens are left out too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tk.config.tree import Key

HIDDEN = "***"
_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_PARAMETER = re.compile(r"(?<=[?&])([^=&#\s]*(?:token|key|secret|password|credential|signature|sig)=)[^&#\s]+", re.I)


def published(tree: Mapping[str, Any], secrets: Collection[Key]) -> dict[str, Any]:
    """The tree with what is hidden as "***". secrets: paths of options, at which all is hidden but the names."""
    return {name: _published(value, (name,), secrets) for name, value in tree.items()}


def _published(node: Any, path: Key, secrets: Collection[Key]) -> Any:
    if path in secrets:
        return _hidden(node)
    if isinstance(node, Mapping):
        return {name: _published(value, (*path, name), secrets) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_published(item, path, secrets) for item in node)
    return without_credentials(node) if isinstance(node, str) else node


def _hidden(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {name: _hidden(value) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_hidden(item) for item in node)
    return HIDDEN


def without_credentials(text: str) -> str:
    """A text with the user and password of addresses in it, and the tokens of their queries, as "***"."""
    return _PARAMETER.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))


def published_command(words: Sequence[str], secrets: Collection[Key]) -> list[str]:
    """A command line as it may be shown: values of flags that set secrets are hidden, and credentials in addresses."""
    names = [_name(".".join(path)) for path in secrets]
    found: list[str] = []
    before = ""
    for word in words:
        flag, equals, value = word.partition("=") if word.startswith("--") else (before, "", word)
        before = flag if word.startswith("--") and not equals else ""
        if value and any(_sets(_name(flag.removeprefix("--")), value, name) for name in names):
            found.append(f"{flag}={HIDDEN}" if equals else HIDDEN)
        else:
            found.append(without_credentials(word))
    return found


def _name(flag: str) -> str:
    return flag.replace("-", "_")


def _sets(flag: str, value: str, secret: str) -> bool:
    """Whether a flag sets a secret, a part of it, or, by a mapping, something that it is a part of."""
    return f"{flag}.".startswith(f"{secret}.") or (value.startswith("{") and secret.startswith(f"{flag}."))
