"""A plugin file: engines that say what a file beside the checkpoint says, at once or token by token."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tk import EngineSpec, hookimpl
from tk.contracts import Completion, Delta, LoadedModel, Request
from tk.engines import Base, Batched
from tk.errors import RequestError


class Said(Batched):
    def __init__(self, *, model: LoadedModel, folder: Path) -> None:
        super().__init__()
        self.model = model

    def answer(self, requests: Sequence[Request]) -> list[list[Completion]]:
        tokenizer, text = self.model.tokenizer, (Path(self.model.path) / "said.txt").read_text()
        ids = (*tokenizer(text, add_special_tokens=False)["input_ids"], requests[0].stop_ids[0])
        return [[Completion(ids, text, "stop")] for _ in requests]


class Cramped(Said):
    """With less room than the model."""

    def add(self, request: Request) -> int:
        if len(request.ids) > 100:
            raise RequestError("A hundred tokens are the most.", too_long=True)
        return super().add(request)


class Spoken(Base):
    """A token a step, whole characters only, to one who asks."""

    def __init__(self, *, model: LoadedModel, folder: Path) -> None:
        self.model = model
        self._pieces: Iterator[Delta] = iter(())

    def add(self, request: Request) -> int:
        self._pieces = self._spoken(request)
        return 0

    def step(self) -> list[Delta]:
        return [delta for delta in [next(self._pieces, None)] if delta is not None]

    def cancel(self, key: int) -> None:
        self._pieces = iter(())

    def _spoken(self, request: Request) -> Iterator[Delta]:
        tokenizer, text = self.model.tokenizer, (Path(self.model.path) / "said.txt").read_text()
        ids, told = tokenizer(text, add_special_tokens=False)["input_ids"], 0
        for number in range(1, len(ids) + 1):
            so_far = tokenizer.decode(ids[:number], skip_special_tokens=True).rstrip("\ufffd")
            yield Delta(so_far[told:], (ids[number - 1],))
            told = len(so_far)
        yield Delta("", (request.stop_ids[0],), "stop")


@hookimpl
def tk_engines():
    yield EngineSpec(name="said", target=Said, summary="Says what a file says.")
    yield EngineSpec(name="elsewhere", target=Said, summary="The same, with adapters.", supports=("adapters",))
    yield EngineSpec(name="cramped", target=Cramped, summary="Says it where the prompt is short.")
    yield EngineSpec(name="spoken", target=Spoken, summary="Says it token by token.")
