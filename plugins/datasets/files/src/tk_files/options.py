"""Options of the readers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class CsvOptions:
    """How a CSV file is written."""

    delimiter: Annotated[str, doc("Character between cells; a tab for .tsv and a comma otherwise, unless given.")] = ""
    quote: Annotated[str, doc("Character around cells that hold delimiters or line breaks.", min_length=1)] = '"'
