"""What the processes of a run need from their start, asked by what starts them: free of torch, and of DeepSpeed."""

from __future__ import annotations

from collections.abc import Mapping

from tk_deepspeed.document import document_of
from tk_deepspeed.options import DeepspeedOptions


def environment(options: DeepspeedOptions) -> Mapping[str, str]:
    """DeepSpeed reads what it computes on from DS_ACCELERATOR.

    Raises UsageError for a config that it could not be given.
    """
    document_of(options)
    return {"DS_ACCELERATOR": options.accelerator} if options.accelerator else {}
