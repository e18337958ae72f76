"""What is done with a model outside training: rows are answered or scored, one talks to it, it is served or exported.

Every step is a call of a contract, so nothing here knows a model, an engine or torch.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

from tk import engines
from tk.compose import Plan
from tk.config.files import listed
from tk.contracts import (
    LM_HEAD,
    Completion,
    Head,
    LoadedModel,
    Medium,
    Request,
    Server,
    Serving,
    Top,
)
from tk.errors import DataError, RequestError, UsageError
from tk.loading import Runtime, engine_folder, load, runtime, trained_head
from tk.rows import Reading, open_source
from tk.sample import Message, Part, Sample
from tk.scoring import Scoring, judges, scorers

BATCH = 64
"""Rows that are given to the engine at once."""


@dataclass(frozen=True)
class Answer:
    """What was generated for a row.

    origin: "file:line" of the row. rewards: name -> score, None where it does not apply. logps, top: as in a Completion.
    error: why there is no answer, where the row alone is at fault.
    """

    origin: str
    prompt: Sequence[Message]
    text: str
    finish_reason: str
    tokens: int
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    logps: Sequence[float] | None = None
    top: Sequence[Top] | None = None
    error: str = ""


USES = {
    "lm": {"talk to it": "tk chat --run {run}", "answer rows": "tk infer --run {run} --input FILE --to answers.jsonl"},
    "score": {"score rows": "tk infer --run {run} --input FILE --to scores.jsonl"},
    "none": {"vectors of rows": "tk embed --run {run} --input FILE --to vectors.jsonl"},
}
"""What a trained model can be used for, by the kind of its head: in words -> the command."""


def uses_of(plan: Plan, run: Path) -> dict[str, str]:
    """What can be done with what a run of a plan has trained: in words -> the command."""
    commands = {
        **USES.get(trained_head(plan).kind, {}),
        "write a whole checkpoint": "tk export --run {run} --to FOLDER",
    }
    return {what: command.format(run=shlex.quote(str(run))) for what, command in commands.items()}


@dataclass(frozen=True)
class Numbers:
    """What a model without a vocabulary head gives to a row: its vector, or a score a label.

    label: the label with the highest score, those above 0 where several may hold, none of a regression.
    """

    origin: str
    values: Sequence[float]
    scores: Mapping[str, float] = field(default_factory=dict)
    label: str | Sequence[str] | None = None


class Numbered:
    """Vectors or scores of every row of a config's data sources, in order. `head`: of a model without a run."""

    def __init__(self, plan: Plan, run: Path | None, head: Head) -> None:
        self._plan, self._run, self._head = plan, run, head
        self._readings = opened(plan)
        self._begin = 0

    def __len__(self) -> int:
        return sum(len(reading) for reading in self._readings)

    @property
    def made_with(self) -> dict[str, Any]:
        return made_with(self._plan, self._run, self._readings)

    def after(self, done: int) -> int:
        """Leave out the first rows."""
        self._begin = done
        return done

    def __iter__(self) -> Iterator[Numbers]:
        for _ in samples_of(self._readings):
            pass
        loaded = runtime(self._plan, self._run, self._head)
        samples = islice(samples_of(self._readings), self._begin, None)
        with closing(loaded.engine):
            while batch := list(islice(samples, BATCH)):
                asked = [Request(e.ids, media=e.media) for e in loaded.template.encode(batch)]
                for sample, request in zip(batch, asked, strict=True):
                    if why := _no_room(request, loaded.model):
                        raise DataError(f"{sample.origin}: {why}")
                rows = loaded.engine.score(asked)
                yield from (numbers(s.origin, row, loaded.model.head) for s, row in zip(batch, rows, strict=True))


def numbers(origin: str, values: Sequence[float], head: Head) -> Numbers:
    """A row's numbers with the meaning that the head gives them."""
    scores = dict(zip(head.labels, values, strict=True)) if head.kind == "score" else {}
    label: str | Sequence[str] | None = None
    if head.problem == "single_label_classification":
        label = max(scores, key=lambda name: scores[name])
    elif head.problem == "multi_label_classification":
        label = [name for name, value in scores.items() if value > 0]
    return Numbers(origin, values, scores, label)


def made_with(plan: Plan, run: Path | None, readings: Sequence[Reading]) -> dict[str, Any]:
    """What a file of answers depends on: the config, the rows, and which run has trained the model."""
    values = {row["path"]: row["value"] for row in listed(replace(plan.config, tree=plan.published))}
    kept = {path: value for path, value in values.items() if path.partition(".")[0] in DECISIVE}
    return {**kept, "run": str(run) if run else "", "rows": [reading.rows.fingerprint for reading in readings]}


DECISIVE = ("model", "template", "data", "media", "engine", "engines", "sampling", "rewards", "tuner", "method")
"""Sections that answers depend on."""


def opened(plan: Plan) -> list[Reading]:
    """The config's data sources. Raises UsageError where none is named."""
    sources = plan.config.data.sources
    if not sources:
        raise UsageError("data: there are no rows: --input FILE.")
    return [open_source(plan.registry, name, source) for name, source in sources.items()]


def samples_of(readings: Sequence[Reading]) -> Iterator[Sample]:
    """Every row as a sample. Raises DataError at a bad one."""
    return (reading.sample(index) for reading in readings for index in range(len(reading)))


class Answers:
    """Answers to every row of a config's data sources, in order, `sampling.n` for each, scored by its rewards.

    Iterating reads every row once before it loads the model, so that a bad one is told before anything is generated. A
    prompt that alone is at fault (RequestError: there is no room for it) comes with an error instead of an answer, and the
    others with theirs.
    Raises UsageError where no source is named, DataError at a bad row.
    """

    def __init__(self, plan: Plan, run: Path | None = None) -> None:
        self._plan, self._run = plan, run
        self._readings = opened(plan)
        self._begin = 0

    def __len__(self) -> int:
        return sum(len(reading) for reading in self._readings) * self._plan.config.sampling.n

    @property
    def made_with(self) -> dict[str, Any]:
        return made_with(self._plan, self._run, self._readings)

    def after(self, done: int) -> int:
        """Leave out rows of which all answers are there; how many of `done` answers these are."""
        self._begin = done // self._plan.config.sampling.n
        return self._begin * self._plan.config.sampling.n

    def __iter__(self) -> Iterator[Answer]:
        for _ in self._prompts():
            pass
        rewards, columns = scorers(self._plan), {name for reading in self._readings for name in reading.columns}
        further = judges(self._plan, engine_folder(self._run)) if rewards else None
        with closing(Scoring(rewards, columns, further)) as scoring, ExitStack() as held:
            loaded = runtime(self._plan, self._run)
            held.callback(loaded.engine.close)
            answered = self._answered(loaded, islice(self._prompts(), self._begin, None))
            while batch := list(islice(answered, BATCH)):
                yield from self._answers(batch, scoring)

    def _answered(
        self, loaded: Runtime, prompts: Iterator[Sample]
    ) -> Iterator[tuple[Sample, list[Completion] | RequestError]]:
        """Samples in their order, each with its completions, or with why it has none."""
        taken = deque[Sample]()

        def asked() -> Iterator[Request]:
            while batch := list(islice(prompts, BATCH)):
                taken.extend(batch)
                yield from requests(self._plan, loaded, batch)

        for found in engines.generate_each(loaded.engine, asked()):
            yield taken.popleft(), found

    def _prompts(self) -> Iterator[Sample]:
        """The rows' conversations up to where the assistant is to speak: a reference answer at the end is left out."""
        for sample in samples_of(self._readings):
            if not sample.asked:
                raise DataError(f"{sample.origin}: there is nothing to answer: no message before the assistant's.")
            yield replace(sample, messages=sample.asked)

    def _answers(
        self, batch: Sequence[tuple[Sample, list[Completion] | RequestError]], scoring: Scoring
    ) -> Iterator[Answer]:
        flat = [(sample, each) for sample, found in batch if not isinstance(found, RequestError) for each in found]
        scores, index = scoring(flat) if flat else {}, count()
        for sample, found in batch:
            if isinstance(found, RequestError):
                yield from [_failed(sample, str(found))] * self._plan.config.sampling.n
                continue
            for completion in found:
                at = next(index)
                rewards = {name: values[at] for name, values in scores.items()}
                yield _answer(sample, completion, rewards)


def _answer(sample: Sample, completion: Completion, rewards: Mapping[str, float | None]) -> Answer:
    return Answer(
        sample.origin,
        sample.messages,
        completion.text,
        completion.finish_reason,
        len(completion.ids),
        rewards,
        completion.logps,
        completion.top,
    )


def _failed(sample: Sample, error: str) -> Answer:
    return Answer(sample.origin, sample.messages, "", "error", 0, error=error)


def _no_room(request: Request, model: LoadedModel) -> str:
    """Why a model has no positions for a text; "" where it has."""
    limit = model.max_length
    if limit is None or len(request.ids) <= limit:
        return ""
    return f"It has {len(request.ids)} tokens, and the model {limit} positions: shorten it."


def requests(plan: Plan, loaded: Runtime, samples: Sequence[Sample]) -> list[Request]:
    """What an engine is asked to go on with each sample's conversation."""
    stop_ids = loaded.template.stop_ids()
    encodings = loaded.template.encode(samples, generation=True)
    return [Request(e.ids, plan.config.sampling, stop_ids, e.media) for e in encodings]


class Conversation:
    """A talk with a model: each turn continues the tokens that were really sampled. Close it when it is over."""

    def __init__(self, plan: Plan, run: Path | None = None, system: str | None = None) -> None:
        self._plan = plan
        self._loaded = runtime(plan, run)
        self._opening = (Message("system", system),) if system else ()
        self._ids: Sequence[int] = ()
        self._media: Sequence[Medium] = ()

    def say(self, text: str, images: Sequence[str] = (), videos: Sequence[str] = ()) -> Iterator[str]:
        """The assistant's answer, piece by piece. images, videos: files or URLs that stand before the text.

        Raises TkError, with nothing said, where one cannot be read or the model takes none.
        """
        template = self._loaded.template
        if (images or videos) and self._loaded.model.media is None:
            raise UsageError(f"{self._loaded.model.path} takes no pictures or videos.")
        shown = [Part("image", source=image) for image in images] + [Part("video", source=video) for video in videos]
        message = Message("user", (*shown, Part("text", text)) if shown else text)
        if self._ids:
            encoding = template.extend(self._ids, [message])
        else:
            encoding = template.encode([Sample((*self._opening, message), origin="chat")], generation=True)[0]
        media = [*self._media, *encoding.media]
        request = Request(encoding.ids, self._plan.config.sampling, template.stop_ids(), media)
        sampled: list[int] = []
        for delta in engines.stream(self._loaded.engine, request):
            sampled.extend(delta.ids)
            yield delta.text
        self._ids, self._media = [*encoding.ids, *sampled], media

    def reset(self) -> None:
        """Forget what was said."""
        self._ids, self._media = (), ()

    def close(self) -> None:
        self._loaded.engine.close()


def serving(plan: Plan, run: Path | None) -> Serving:
    """A plan's server with the model, or with what `run` has trained of it."""
    chosen = plan.one("server")
    chosen.component.require("server", chosen.options)
    server: Server = chosen.build()
    return server.open(plan, run, trained_head(plan) if run else LM_HEAD)


def export(plan: Plan, run: Path | None, folder: Path, format: str) -> Path:
    """Merge what `run` has trained and write it with the exporter `format`."""
    if plan.config.model.adapters:
        raise UsageError("model.adapters: one model is written, with what --run has trained of it.")
    exporter: Any = plan.registry.get("exporters", format).build()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"--to {folder}: {'the folder is not empty' if folder.is_dir() else 'it is a file'}; name a new one."
        )
    model, tuner = load(plan, run)
    if tuner is not None:
        tuner.merge(model)
    written: Path = exporter.export(model, folder, family=plan.family.build())
    return written
