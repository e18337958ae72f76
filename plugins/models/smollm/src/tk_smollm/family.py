"""SmolLM2's short names; everything else is as for any checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tk_auto.named import NamedFamily
from tk_smollm import wheel


class SmolLMFamily(NamedFamily):
    """Checkpoints of SmolLM2: short names, folders and hub ids. Has no options."""

    hub_ids: ClassVar[Mapping[str, str]] = {
        "smollm2-135m": "HuggingFaceTB/SmolLM2-135M",
        "smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "smollm2-360m": "HuggingFaceTB/SmolLM2-360M",
        "smollm2-360m-instruct": "HuggingFaceTB/SmolLM2-360M-Instruct",
        "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B",
        "smollm2-1.7b-instruct": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    }
    wheels: ClassVar[Mapping[str, str]] = {"smollm2-135m-instruct": wheel.DISTRIBUTION}

    def packaged(self, wheel_name: str) -> Path | None:
        """The folder that the wheel's file was converted into, on first use (about 20 s, 540 MB)."""
        gguf = wheel.find(wheel_name)
        return None if gguf is None else wheel.checkpoint(gguf)
