"""The engine `sglang`."""

from __future__ import annotations

from pathlib import Path

from tk_remote.start import Installed


class SglangEngine(Installed):
    """SGLang's engine."""

    package = "sglang"
    inside = Path(__file__).with_name("inside.py")
