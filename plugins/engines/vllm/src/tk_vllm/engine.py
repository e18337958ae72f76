"""The engine `vllm`."""

from __future__ import annotations

from pathlib import Path

from tk.contracts import LoadedModel
from tk_remote.engine import Remote
from tk_remote.start import opener
from tk_vllm.options import VllmOptions

INSIDE = Path(__file__).with_name("inside.py")


class VllmEngine(Remote):
    """vLLM's engine on the checkpoint that the model was loaded from; its own weights follow by `update`."""

    def __init__(self, options: VllmOptions, *, model: LoadedModel, folder: Path) -> None:
        adapters = [str(path) for path in model.adapters.folders.values()] if model.adapters is not None else []
        values = {"model": model.path, "words": options.words(), "adapters": adapters}
        super().__init__(
            "vllm",
            opener("vllm", INSIDE, "Inside", options, values, folder),
            model=model,
            folder=folder,
            restarts=options.restarts,
        )
