"""Options of the tuner `full`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class FullOptions:
    """A pattern is a module group (language_model, vision_tower, aligner), a name or glob of whole name parts
    ("embed_tokens", "layers.[0-5].mlp", "norm"), or a regular expression after "re:", searched in the full name.
    """

    train: Annotated[
        list[str], doc("Train only what these groups, names, globs or re:expressions match; everything unless given.")
    ] = field(default_factory=list)
    freeze: Annotated[
        list[str], doc("Of that, leave untrained what these groups, names, globs or re:expressions match.")
    ] = field(default_factory=list)
    lr_scale: Annotated[
        dict[str, float], doc("Factor on the learning rate by group, name, glob or re:expression; the first that fits.")
    ] = field(default_factory=dict)
