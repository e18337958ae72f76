"""Options of classification and regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class ClassOptions:
    """Options of `classification` and `multi-label`."""

    labels: Annotated[
        tuple[str, ...], doc("Names of the classes in order; a row's label is a name or a number from 0.", min_length=2)
    ]


@dataclass(frozen=True)
class RegressionOptions:
    """Options of `regression`."""

    labels: Annotated[
        tuple[str, ...], doc("Names of the numbers; a row's label is one number, or a list of as many.", min_length=1)
    ] = ("value",)
