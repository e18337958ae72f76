"""What the processes of a run need from their start, asked by what starts them: free of torch, and of DeepSpeed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from tk.errors import TkError
from tk_deepspeed.document import document_of
from tk_deepspeed.options import DeepspeedOptions


def environment(options: DeepspeedOptions) -> Mapping[str, str]:
    """DeepSpeed reads what it computes on from DS_ACCELERATOR.

    Raises UsageError for a config that it could not be given, and TkError where it is not installed.
    """
    document_of(options)
    check_installed()
    return {"DS_ACCELERATOR": options.accelerator} if options.accelerator else {}


def check_installed() -> None:
    """Raises TkError with the mend."""
    if find_spec("deepspeed") is None:
        raise TkError(
            "strategy deepspeed needs the package 'deepspeed', which is not installed: "
            "pip install --no-build-isolation 'tk-plugin-deepspeed[deepspeed]'"
        )
