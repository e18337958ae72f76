"""Errors that are a user's to mend: shown as one message without a traceback.

`UsageError` ends a command with exit code 2 (what was asked for is wrong), every other `TkError` with 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TkError(Exception):
    """Something failed for a reason that the message tells, together with the mend."""

    exit_code = 1


class UsageError(TkError):
    """The command, the config or a name in it is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A config value is wrong; the message starts with its path and where it was set."""


class DataError(TkError):
    """A row of a data file is wrong; the message starts with `file:line:`."""


class RequestError(TkError):
    """One request cannot be answered as it is; others can. too_long: for want of room for its prompt and an answer."""

    def __init__(self, message: str, *, too_long: bool = False) -> None:
        super().__init__(message)
        self.too_long = too_long


class StuckError(TkError):
    """A plugin's code did not return in its time; threads that it has started may still run."""


class TkWarning(RuntimeWarning):
    """What a user should know while a run goes on; the `tk` command shows it in a line."""


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean …?' for the known word closest to a misspelled one, or '' where none is close."""
    found = get_close_matches(word, list(known), 1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""
