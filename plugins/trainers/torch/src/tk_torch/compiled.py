"""Training steps compiled by torch (inductor), block by block."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from tk.errors import UsageError
from tk_parallel.blocks import blocks

FORMS = 32
"""What blocks of a class may be compiled for at most, before torch says so and runs further forms as they are. There are one row or
several, with or without a mask, and no gradient, one, or one for weights alone, times the kinds of blocks."""


def compile_blocks(module: nn.Module, device: str) -> int:
    """Compile every block in place, for rows and tokens of any number; returns how many there are.

    Blocks of a class share what is compiled. One with embeddings stays as it is, since their hooks come and go. Names of weights, files and hooks stay as they are, since no block is wrapped.
    Raises UsageError where there is no compiler, or no block.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if torch.device(device).type == "cpu" and shutil.which(compiler) is None:
        raise UsageError(
            f"train.compile: there is no C++ compiler {compiler!r} on this machine: install one, name it in CXX, or leave it out."
        )
    found = [block for block in blocks(module) if not any(isinstance(part, nn.Embedding) for part in block.modules())]
    if not found:
        raise UsageError(
            "train.compile: the model has no blocks, one after another, that could be compiled: leave it out."
        )
    limit = {"recompile_limit": FORMS} if "recompile_limit" in inspect.signature(torch.compile).parameters else {}
    for block in found:
        block.compile(dynamic=True, **limit)
    return len(found)


def uncompiled(module: nn.Module) -> AbstractContextManager[None]:
    """Runs a module as it was before it was compiled: between training steps shapes, caches and modes are others."""
    if all(part._compiled_call_impl is None for part in module.modules()):
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance
