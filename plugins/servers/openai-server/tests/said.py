"""A plugin file: an engine that says what a file beside the checkpoint says."""

from collections.abc import Sequence
from pathlib import Path

from tk import EngineSpec, hookimpl
from tk.contracts import Completion, LoadedModel, Request
from tk.engines import Batched


class Said(Batched):
    def __init__(self, *, model: LoadedModel, folder: Path) -> None:
        super().__init__()
        self.model = model

    def answer(self, requests: Sequence[Request]) -> list[list[Completion]]:
        tokenizer, text = self.model.tokenizer, (Path(self.model.path) / "said.txt").read_text()
        ids = (*tokenizer(text, add_special_tokens=False)["input_ids"], requests[0].stop_ids[0])
        return [[Completion(ids, text, "stop")] for _ in requests]


@hookimpl
def tk_engines():
    yield EngineSpec(name="said", target=Said, summary="Says what a file says.")
