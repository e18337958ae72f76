"""The engine `vllm`."""

from __future__ import annotations

from pathlib import Path

from tk_remote.start import Installed


class VllmEngine(Installed):
    """vLLM's engine."""

    package = "vllm"
    inside = Path(__file__).with_name("inside.py")
