"""The dialect `ms-swift`: reward classes in `orms`, whether or not ms-swift is installed."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType
from typing import Any

from tk import Spec, TkError
from tk.contracts import Scored
from tk_reward_dialects.calls import call, plain, spec_of, state

HOMES = ("swift.plugin", "swift.plugin.orm", "swift.rewards", "swift.rewards.orm")
"""Where releases have `ORM`, `AsyncORM` and `orms`."""


class Arguments:
    """Stands for the training arguments, of which there are none here."""

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"args.{name} is an argument of ms-swift's trainer, which is not there")


class ORM:
    """Base of rewards, as ms-swift has it."""

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        self.args = args

    def __call__(self, **kwargs: Any) -> Any:
        raise NotImplementedError


class AsyncORM(ORM):
    """Base of rewards that wait for something."""

    async def __call__(self, **kwargs: Any) -> Any:
        raise NotImplementedError


class Orms(dict[str, Any]):
    """The registry of one file."""

    def __missing__(self, name: str) -> Any:
        raise TkError(f"orms[{name!r}] is a reward of ms-swift's own, which is not here: see `tk rewards list`")


class Absent(type):
    """A name of ms-swift that is not about rewards: it can be subclassed and put into registries, but not used."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if "absent" in vars(cls):
            raise TkError(f"{vars(cls)['absent']} is ms-swift's own: pip install ms-swift")
        return super().__call__(*args, **kwargs)

    def __setitem__(cls, key: str, value: Any) -> None:
        """A registration, of what is no reward: nobody asks for it here."""


class MsSwift:
    """What a file puts into `orms`."""

    def __init__(self) -> None:
        self.orms = Orms()
        self.modules: dict[str, ModuleType] = {}

    def offer(self, name: str) -> ModuleType | None:
        """Homes of rewards are made for the file; all else is ms-swift's where it is installed, and absent elsewhere."""
        if name != "swift" and name not in HOMES and is_installed():
            return None
        if name not in self.modules:
            module = self.modules[name] = ModuleType(name)
            module.__dict__["__path__"] = []
            module.__dict__["__getattr__"] = partial(self._other, name)
            if name in HOMES:
                vars(module).update(ORM=ORM, AsyncORM=AsyncORM, orms=self.orms)
            parent, _, own = name.rpartition(".")
            if parent:
                setattr(self.offer(parent) or ModuleType(parent), own, module)
        return self.modules[name]

    def _other(self, module: str, name: str) -> Any:
        """An attribute of a module that is not about rewards."""
        if name.startswith("__"):
            raise AttributeError(name)
        path = f"{module}.{name}"
        if is_installed():
            return getattr(__import__(module, fromlist=[name]), name)
        if path in HOMES:
            return self.offer(path)
        return logging.getLogger if name == "get_logger" else Absent(name, (), {"absent": path})

    def read(self, module: ModuleType) -> Iterator[tuple[str, Spec]]:
        for name, value in self.orms.items():
            if not callable(value):
                raise TkError(f"orms[{name!r}] is {type(value).__name__}, not a class of rewards")
            yield "rewards", spec_of(name, name.replace("_", "-"), value.__doc__, partial(reward_of, name, value))


def is_installed() -> bool:
    """Whether ms-swift is; another package has the import name `swift` too."""
    try:
        distribution("ms-swift")
    except PackageNotFoundError:
        return False
    return True


def reward_of(name: str, value: Callable[..., Any]) -> Callable[[Scored], Any]:
    """A reward of `orms`, made and called as ms-swift does it."""
    made = _made(value) if inspect.isclass(value) else value

    def reward(batch: Scored) -> Any:
        completions = [message.text for message in batch.completions]
        return call(name, made, (completions,), arguments(batch))

    return reward


def _made(cls: type) -> Any:
    """An instance, with `args` where it takes them (ms-swift 4) and without (3)."""
    parameters = inspect.signature(cls).parameters
    takes = "args" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return cls(args=Arguments()) if takes else cls()


def arguments(batch: Scored) -> dict[str, Any]:
    """The row's columns, and what ms-swift adds to them."""
    pairs = list(zip(batch.prompts, batch.completions, strict=True))
    return {
        "trainer_state": state(batch),
        "messages": [[plain(m) for m in (*prompt, completion)] for prompt, completion in pairs],
        "finish_reason": list(batch.finish_reasons),
        "is_truncated": [reason == "length" for reason in batch.finish_reasons],
        "response_token_ids": [list(ids) for ids in batch.completion_ids],
        "prompt_id": list(batch.origins),
        "request_id": [f"{origin}#{i}" for i, origin in enumerate(batch.origins)],
        **batch.columns,
    }
