"""The commands with a run's config: their own options, thin calls of the API, and what is printed about them.

A command takes what the user gave; its keywords are its options, and its docstring is its help.
"""

from __future__ import annotations

import gc
import json as json_
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tk import launching, setup
from tk.api import train_plan
from tk.cli.generated import AnswerRows, Rows, scores_row, tell, vector_row
from tk.cli.output import as_json, json_text, table
from tk.cli.progress import Progress
from tk.config.files import listed
from tk.contracts import LM_HEAD, Head, Memory, TrainPlan, TrainResult
from tk.errors import DataError, UsageError
from tk.files import write_file
from tk.setup import TRAINED_ON, Given

if TYPE_CHECKING:
    from tk import inference

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a run that was cut off has left the file.")]


def train(
    given: Given,
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show the config and stop.")] = False,
    json: Json = False,
    result: Annotated[Path | None, typer.Option("--result", hidden=True)] = None,
) -> None:
    """Fine-tune a model. Any config path is a flag; options of chosen plugins are below."""
    if resume:
        given = replace(given, flags=[*given.flags, ("train.resume", "true")])
    if print_config:
        config, _ = setup.resolve(given)
        rows = listed(config)
        if json:
            as_json(rows)
        else:
            table(rows, {"path": "PATH", "value": "VALUE", "origin": "FROM"})
        return
    plan = setup.plan(given, output=True)
    launcher = launching.launcher_of(plan)
    if dry_run:
        planned = plan.one("trainer").build().plan(plan)
        if json:
            as_json(planned)
        else:
            _print_plan(planned)
            if launcher is not None:
                print(f"\n{launching.shown(plan, launcher)}")
        return
    if launcher is not None:
        if told := launching.launch(plan, launcher, ["--json"] if json else []):
            if json:
                as_json({"launched": told})
            else:
                print(told)
        return
    with _Uncollected() as uncollected:
        found = train_plan(plan, [uncollected] if json or result else [uncollected, Progress(sys.stderr)])
    if int(os.environ.get("RANK", "0")):
        return
    if result:
        write_file(result, json_text(found))
    elif json:
        as_json(found)
    else:
        _print_result(found)


class _Uncollected:
    """Keeps the garbage collector off until the run begins, as an observer of it.

    Importing torch, transformers and peft makes a few hundred thousand objects that stay; walking them again and again
    delays the first step.
    """

    def __enter__(self) -> _Uncollected:
        gc.disable()
        return self

    def __exit__(self, *_: object) -> None:
        gc.enable()

    def start(self, plan: TrainPlan, config: Mapping[str, Any], step: int) -> None:
        gc.freeze()
        gc.enable()

    def log(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        pass

    def finish(self, result: TrainResult | None) -> None:
        pass


def infer(
    given: Given,
    *,
    input: Annotated[Path | None, typer.Option("--input", help="Rows to answer: a file or a data set.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="JSONL file for the answers.")] = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Generate an answer to every row of a file, and score them with --rewards; or what a trained score head gives."""
    from tk import inference, loading

    plan = setup.plan(_reading(given, input, to))
    head = loading.trained_head(plan) if given.run else LM_HEAD
    if head.kind == "score":
        tell(inference.Numbered(plan, given.run, head), Rows("rows", scores_row), to, json, resume)
    else:
        tell(inference.Answers(plan, given.run), AnswerRows(), to, json, resume)


def embed(
    given: Given,
    *,
    input: Annotated[Path | None, typer.Option("--input", help="Rows of text: a file or a data set.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="JSONL file for the vectors.")] = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Write the vector of every row's text: by a model, or by what a run of the method embedding has trained (--run)."""
    from tk import inference

    found = inference.Numbered(setup.plan(_reading(given, input, to)), given.run, Head("none"))
    tell(found, Rows("vectors", vector_row), to, json, resume)


def _reading(given: Given, input: Path | None, to: Path | None) -> Given:
    """What was given, with `input` as the rows, and without what a run was trained on and rewarded by."""
    if to is not None and to.exists():
        raise UsageError(f"--to {to}: the file exists; name a new one.")
    given = replace(given, forget=TRAINED_ON)
    if input is None:
        return given
    instead = (("data", "sources"),)
    return replace(given, instead=instead, flags=[*given.flags, ("data.sources.input.path", str(input))])


def data_preview(
    given: Given,
    *,
    rows: Annotated[int, typer.Option("--rows", help="Rows of each source.", min=1)] = 8,
    to: Annotated[Path | None, typer.Option("--to", help="HTML file, with the pictures.")] = None,
    json: Json = False,
) -> None:
    """Show rows as a run would train on them: tokens and which are trained, pairs, labels, tools, pictures as the model
    sees them. No weights are read."""
    from tk.cli import preview as pages
    from tk.preview import preview

    if to is not None and to.exists():
        raise UsageError(f"--to {to}: the file exists; name a new one.")
    found = list(preview(setup.plan(given), rows))
    if to is not None:
        write_file(to, pages.page(found))
    if json:
        as_json(pages.plain(found))
    else:
        table(pages.lines(found), pages.COLUMNS)
        print(f"\n{to}" if to else "\nTokens and pictures: --to preview.html")


def chat(
    given: Given,
    *,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Answer this and stop.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="System prompt.")] = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", help="A picture before the first message; may be repeated.")
    ] = None,
    video: Annotated[
        list[str] | None, typer.Option("--video", help="A video before the first message; may be repeated.")
    ] = None,
) -> None:
    """Talk to a model, or to what a run has trained (--run)."""
    from tk import inference

    media = {"/image": list(image or ()), "/video": list(video or ())}
    with closing(inference.Conversation(setup.plan(given), given.run, system)) as conversation:
        if prompt is not None:
            _say(conversation, prompt, media)
        else:
            _talk(conversation, media)


def _talk(conversation: inference.Conversation, media: dict[str, list[str]]) -> None:
    """Answer what is typed until the input ends."""
    print(_CHAT_HELP, file=sys.stderr)
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            print()
            return
        word, _, rest = text.partition(" ")
        if text == "/quit":
            return
        if text == "/new":
            conversation.reset()
            _forget(media)
        elif text == "/help":
            print(_CHAT_HELP, file=sys.stderr)
        elif word in media and rest.strip():
            media[word].append(rest.strip())
            print(f"With the next message: {', '.join(chain.from_iterable(media.values()))}", file=sys.stderr)
        elif word in (*media, "/help", "/new", "/quit"):
            print(f"{word}: give it as it stands here. {_CHAT_HELP}", file=sys.stderr)
        elif text:
            try:
                _say(conversation, text, media)
            except DataError as error:  # a picture or a video: the talk goes on without it
                print(f"error: {error}", file=sys.stderr)
            _forget(media)


def serve(
    given: Given,
    *,
    host: Annotated[str | None, typer.Option("--host", help="Short for --server.host.")] = None,
    port: Annotated[str | None, typer.Option("--port", help="Short for --server.port.")] = None,
    api_key: Annotated[
        list[str] | None, typer.Option("--api-key", help="Short for --server.api-keys; may be repeated.")
    ] = None,
) -> None:
    """Offer a model, or what a run has trained (--run), to clients."""
    from tk import inference

    flags = [(name, value) for name, value in (("server.host", host), ("server.port", port)) if value is not None]
    if api_key:
        flags.append(("server.api_keys", json_.dumps(api_key)))
    serving = inference.serving(setup.plan(replace(given, flags=[*given.flags, *flags])), given.run)
    print(f"{serving.model} at {serving.url}; Ctrl-C ends", file=sys.stderr, flush=True)
    serving.run()


def export(
    given: Given,
    *,
    to: Annotated[Path, typer.Option("--to", help="Folder to write.")],
    format: Annotated[str, typer.Option("--format", help="Exporter (`tk exporters list`).")] = "transformers",
    json: Json = False,
) -> None:
    """Write what a run has trained as a plain checkpoint: the adapter merged, checked by loading it again."""
    from tk import inference

    written = inference.export(setup.plan(given), given.run, to, format)
    if json:
        as_json({"path": str(written)})
    else:
        print(f"Written: {written}")


_CHAT_HELP = (
    "Type a message; /image FILE puts a picture before the next one, /video FILE a video, /new starts again, /quit (or "
    "Ctrl-D) ends, /help shows this."
)


def _say(conversation: inference.Conversation, text: str, media: Mapping[str, Sequence[str]]) -> None:
    for piece in conversation.say(text, media["/image"], media["/video"]):
        print(piece, end="", flush=True)
    print()


def _forget(media: Mapping[str, list[str]]) -> None:
    for files in media.values():
        files.clear()


def _print_plan(plan: TrainPlan) -> None:
    table(list(plan.components), {"part": "PART", "name": "NAME", "distribution": "FROM", "version": "VERSION"})
    share = 100 * plan.trainable / plan.parameters if plan.parameters else 0
    print()
    for name, text in {
        "rows": f"{plan.rows:,}" + "".join(f", {count:,} {reason}" for reason, count in plan.skipped.items()),
        "examples": f"{plan.examples:,} an epoch",
        "tokens": f"{plan.tokens:,} an epoch" + _trained(plan),
        "optimizer steps": f"{plan.steps:,}",
        "batch": f"{plan.batch_size} rows: {plan.world} process(es) × {plan.accumulation} micro-batches",
        "parameters": f"{plan.parameters:,}, {plan.trainable:,} of them trained ({share:.2f} %)",
    }.items():
        print(f"{name:16} {text}")
    for note in plan.notes:
        print(f"note             {note}")
    if plan.memory is not None:
        print()
        table(*_memory_rows(plan.memory))


def _trained(plan: TrainPlan) -> str:
    """How many tokens the loss is over: nothing of a loss over pairs or rows, and of answers that are yet to be generated."""
    return "" if plan.supervised in (0, plan.examples) else f", {plan.supervised:,.0f} of them trained"


def _memory_rows(memory: Memory) -> tuple[list[dict[str, str]], dict[str, str]]:
    """A line of a process's peak by parts, and its headings."""
    parts = ("total", "weights", "gradients", "optimizer", "activations", "other")
    row = {name: f"{getattr(memory, name) / 2**20:,.0f} MiB" for name in parts}
    row["total"] = f"{'about' if memory.complete else 'more than'} {row['total']}"
    return [{"moment": memory.moment, **row}], {
        "moment": "MEMORY OF A PROCESS",
        **{name: name.upper() for name in parts},
    }


def _print_result(result: TrainResult) -> None:
    print(f"{result.steps} steps, {result.tokens:,} tokens in {result.seconds:.1f} s")
    if result.dropped:
        print(f"{result.dropped} steps were left out: a loss or gradient was not finite")
    if not (result.output / "final").is_dir():
        print(f"stopped by {result.stopped}; go on with: tk train --run {shlex.quote(str(result.output))} --resume")
        return
    if result.stopped:
        print(f"ended early: {result.stopped}")
    rows = [
        {"what": name, "before": _figure(result.first, name), "after": _figure(result.evals, name)}
        for name in result.evals
        if not name.endswith(("_low", "_high"))
    ]
    if rows:
        print()
        table(rows, {"what": "HELD OUT", "before": "BEFORE [95 %]", "after": "AFTER [95 %]"})
    for sample in result.samples:
        print()
        for name in ("prompt", "reference", "before", "after"):
            print(f"{name:9} {_one_line(sample.get(name, ''))}")
    report = result.output / "report.html"
    print(f"\nrun       {result.output}")
    if report.is_file():
        print(f"report    {report}")
    print(f"trained   {result.output / 'final'}\n")
    for number, command in enumerate(result.next.values()):
        print(f"{'' if number else 'next':10}{command}")


def _figure(figures: Mapping[str, float], name: str) -> str:
    """A figure with its interval where there is one."""
    if name not in figures:
        return "-"
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    interval = f" [{low:.4f}, {high:.4f}]" if low is not None and high is not None else ""
    return f"{figures[name]:.4f}{interval}"


def _one_line(value: Any) -> str:
    """A text, or the last message of a conversation, on one line of the terminal."""
    text = value if isinstance(value, str) else str(value[-1].get("content", "")) if value else ""
    return textwrap.shorten(text, max(40, shutil.get_terminal_size((120, 24)).columns - 10), placeholder=" …")
