"""The engine `lmdeploy`."""

from __future__ import annotations

from pathlib import Path

from tk_remote.start import Installed


class LmdeployEngine(Installed):
    """LMDeploy's engine."""

    package = "lmdeploy"
    inside = Path(__file__).with_name("inside.py")
