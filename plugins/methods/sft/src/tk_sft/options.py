"""Options of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk.config.options import doc


@dataclass(frozen=True)
class SftOptions:
    """Options of `sft`."""

    train_on: Annotated[
        Literal["all-assistant", "last", "all"],
        doc(
            "Which messages are trained where the data does not say: every answer of the assistant, "
            "only those after the last user message, or all messages."
        ),
    ] = "all-assistant"
