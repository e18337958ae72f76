"""Options of the reward `remote`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tk import doc


@dataclass(frozen=True)
class RemoteOptions:
    """Options of `remote`."""

    url: Annotated[str, doc("Where answers are posted to.")]
    columns: Annotated[Sequence[str], doc("Columns of the row that the server is sent.")] = ()
    at_once: Annotated[int, doc("Answers that the server scores at the same time.", ge=1)] = 16
    timeout: Annotated[float, doc("Seconds after which a score that has not come is an error.", gt=0)] = 60.0
