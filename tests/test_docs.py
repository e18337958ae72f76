"""The generated reference is what the code says now."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["hooks.md", "config.md"])
def test_the_reference_is_fresh(name):
    path = ROOT / "docs" / "reference" / name
    assert path.read_text(encoding="utf-8") == _generator().pages()[path], f"{path} is stale: run `make docs`"
