"""The Python API: what the commands do, with the config as keywords, dict or file, and typed results.

import tk
result = tk.train(model="smollm2-135m-instruct", data="rows.jsonl", tuner={"name": "lora", "rank": 8})
answers = tk.infer(run=result.output, data="prompts.jsonl")
tk.export(run=result.output, to="merged")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tk import launching, setup
from tk.config.resolve import Config
from tk.errors import UsageError

if TYPE_CHECKING:
    from tk.asking import Asking
    from tk.compose import Plan
    from tk.contracts import Serving, Tracker, TrainPlan, TrainResult
    from tk.inference import Answer, Conversation, Numbers


def load_config(config: Any = None, *, run: str | Path | None = None, **sections: Any) -> Config:
    """The resolved config of a file, mapping and keywords. Raises ConfigError with path, place and mend."""
    return setup.resolve(setup.given_from(config, sections, run))[0]


def train(config: Any = None, *, run: str | Path | None = None, **sections: Any) -> TrainResult:
    """Train as the config says. Sections are keywords: `tk.train(model=…, data=…, tuner={"name": "lora"})`."""
    plan = setup.plan(setup.given_from(config, sections, run), output=True)
    launcher = launching.launcher_of(plan)
    return launching.result_of(plan, launcher) if launcher is not None else train_plan(plan)


def plan(config: Any = None, *, run: str | Path | None = None, **sections: Any) -> TrainPlan:
    """What `train` would do: parts, rows, tokens, steps and parameters, found without loading weights."""
    made = setup.plan(setup.given_from(config, sections, run))
    found: TrainPlan = made.one("trainer").build().plan(made)
    return found


def train_plan(plan: Plan, observers: Sequence[Tracker] = ()) -> TrainResult:
    """Run a plan with the trainer that it names."""
    if plan.config.model.adapters:
        raise UsageError("model.adapters: they are generated with; to train one further: --train.start-from FOLDER.")
    result: TrainResult = plan.one("trainer").build().fit(plan, observers)
    return result


def infer(config: Any = None, *, run: str | Path | None = None, **sections: Any) -> list[Answer]:
    """Answers to every row of `data`, in order, with the scores of `rewards`."""
    from tk import inference

    given = replace(setup.given_from(config, sections, run), forget=setup.TRAINED_ON)
    return list(inference.Answers(setup.plan(given), _folder(run)))


def score(config: Any = None, *, run: str | Path, **sections: Any) -> list[Numbers]:
    """Scores of every row of `data` by the head that a run has trained, in order."""
    from tk import inference, loading

    plan = setup.plan(replace(setup.given_from(config, sections, run), forget=setup.TRAINED_ON))
    return list(inference.Numbered(plan, Path(run), loading.trained_head(plan)))


def embed(config: Any = None, *, run: str | Path | None = None, **sections: Any) -> list[Numbers]:
    """The vector of every row's text, in order, by a model or by what a run of the method embedding has trained."""
    from tk import inference
    from tk.contracts import Head

    plan = setup.plan(replace(setup.given_from(config, sections, run), forget=setup.TRAINED_ON))
    return list(inference.Numbered(plan, _folder(run), Head("none")))


def chat(config: Any = None, *, run: str | Path | None = None, **sections: Any) -> Conversation:
    """A conversation with a model or with what a run has trained: `for piece in conversation.say("Hello"): …`."""
    from tk import inference

    return inference.Conversation(setup.plan(setup.given_from(config, sections, run)), _folder(run))


def serve(config: Any = None, *, run: str | Path | None = None, **sections: Any) -> Serving:
    """A server that answers in the background until it is closed: `with tk.serve(model=…) as server: server.url`."""
    from tk import inference

    serving = inference.serving(setup.plan(setup.given_from(config, sections, run)), _folder(run))
    serving.start()
    return serving


def engine(config: Any = None, *, run: str | Path | None = None, **sections: Any) -> Asking:
    """An engine with its model: `with tk.engine(model=…) as engine: engine.generate(["Hello"], max_tokens=20)`.

    The section of the same name is a keyword too: `tk.engine(model=…, engine={"name": "vllm", "python": …})`.
    """
    from tk import asking

    return asking.Asking(setup.plan(setup.given_from(config, sections, run)), _folder(run))


def export(
    config: Any = None, *, to: str | Path, run: str | Path | None = None, format: str = "transformers", **sections: Any
) -> Path:
    """Write what a run has trained with the exporter `format`; returns the folder written."""
    from tk import inference

    return inference.export(setup.plan(setup.given_from(config, sections, run)), _folder(run), Path(to), format)


def _folder(run: str | Path | None) -> Path | None:
    return Path(run) if run is not None else None
