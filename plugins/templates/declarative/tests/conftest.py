"""Real tokenizers for this package's tests."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tk_text.testing import family_template, smollm2_tokenizer


@pytest.fixture(scope="session")
def smollm2() -> Any:
    return smollm2_tokenizer()


@pytest.fixture(scope="session")
def qwen_style(smollm2: Any) -> Any:
    """SmolLM2's vocabulary with Qwen 2.5's chat template, which knows tools."""
    tokenizer = copy.deepcopy(smollm2)
    tokenizer.chat_template = family_template("qwen2_5")
    return tokenizer
