"""An engine with its model, asked from Python: prompts in, completions out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from tk import engines
from tk.capabilities import CAPABILITIES
from tk.compose import Plan
from tk.config.resolve import changed
from tk.contracts import Completion, Delta, Request, Sampling
from tk.errors import UsageError
from tk.loading import runtime
from tk.sample import Message, Sample

Prompt = str | Sequence[int] | Sequence[Message | Mapping[str, Any]] | Sample
"""What a user says, tokens as they are, a conversation (messages, or mappings with role and content), or a sample."""


class Asking:
    """A plan's engine on the plan's model, or on what `run` has trained of it. Close it, or use it as a context."""

    def __init__(self, plan: Plan, run: Path | None) -> None:
        self._sampling = plan.config.sampling
        self._supports = plan.one("engine").component.spec.supports
        self._messages = plan.registry.get("formats", "messages").build(generation=True)
        self._loaded = runtime(plan, run, adapters=True)
        self.model = self._loaded.model

    def generate(
        self, prompts: Iterable[Prompt], *, tools: Sequence[Mapping[str, Any]] = (), adapter: str = "", **sampling: Any
    ) -> list[list[Completion]]:
        """`n` completions of each prompt, in order. sampling: fields of the section, instead of the config's.

        Raises UsageError for one prompt in the place of several, ConfigError for fields that are none, and TkError for
        a prompt that cannot be answered.
        """
        settings = changed("sampling", self._sampling, sampling)
        asked = [self._request(prompt, tools, adapter, settings) for prompt in _several(prompts)]
        return engines.generate(self._loaded.engine, asked)

    def stream(
        self, prompt: Prompt, *, tools: Sequence[Mapping[str, Any]] = (), adapter: str = "", **sampling: Any
    ) -> Iterator[Delta]:
        """One completion in pieces, as they come."""
        settings = changed("sampling", self._sampling, {**sampling, "n": 1})
        return engines.stream(self._loaded.engine, self._request(prompt, tools, adapter, settings))

    def close(self) -> None:
        self._loaded.engine.close()

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _request(self, prompt: Prompt, tools: Sequence[Mapping[str, Any]], adapter: str, sampling: Sampling) -> Request:
        asked = self._of(prompt, tools, adapter, sampling)
        lacking = [(word, name) for word, name in asked.needs.items() if word not in self._supports]
        for word, name in lacking:
            field = f"sampling.{name}" if hasattr(sampling, name) else name
            raise UsageError(f"{field}: the engine does not support {word!r}: {CAPABILITIES[word].text}.")
        return asked

    def _of(self, prompt: Prompt, tools: Sequence[Mapping[str, Any]], adapter: str, sampling: Sampling) -> Request:
        template = self._loaded.template
        if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], int):
            return Request([int(token) for token in prompt], sampling, template.stop_ids(), adapter=adapter)  # type: ignore[arg-type]
        (encoding,) = template.encode([self._sample(prompt, tools)], generation=True)
        return Request(encoding.ids, sampling, template.stop_ids(), encoding.media, adapter)

    def _sample(self, prompt: Any, tools: Sequence[Mapping[str, Any]]) -> Sample:
        if isinstance(prompt, Sample):
            return prompt
        if isinstance(prompt, str):
            return Sample((Message("user", prompt),), tools=tuple(tools), origin="prompt")
        if all(isinstance(message, Message) for message in prompt):
            return Sample(tuple(prompt), tools=tuple(tools), origin="prompt")
        row = {"messages": list(prompt), **({"tools": list(tools)} if tools else {})}
        sample: Sample = self._messages(row)
        return replace(sample, origin="prompt")


def _several(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Raises UsageError where they are one prompt: a text, a sample, tokens or a conversation."""
    if not isinstance(prompts, str | Sample):
        found = list(prompts)
        if not any(isinstance(one, int | Message | Mapping) for one in found):
            return found
    raise UsageError("prompts: this is one prompt, and a list of them is asked for: generate([prompt]).")
