"""Real tokenizers for this package's tests."""

from __future__ import annotations

from typing import Any

import pytest

from tk_text.testing import smollm2_tokenizer


@pytest.fixture(scope="session")
def smollm2() -> Any:
    return smollm2_tokenizer()
