"""Reward files of TRL and ms-swift run as they are, and leave nothing behind."""

from __future__ import annotations

import builtins
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tk.contracts import Completion, Moment
from tk.errors import TkError
from tk.plugins import Selection, load
from tk.registry import Registry
from tk.sample import Message, Sample
from tk.scoring import Heard, Scorer, Scoring

TRL = '''
import math
from functools import partial


def length_reward(prompts, completions, **kwargs):
    """Longer is better.

    Up to a point.
    """
    return [float(len(c if isinstance(c, str) else c[0]["content"])) for c in completions]


async def Async_Reward(completions, solution, log_metric=None, log_extra=None, **kwargs):
    texts = [c[0]["content"] for c in completions]
    found = [1.0 if s in t else None for s, t in zip(solution, texts)]
    log_metric("hits", sum(v is not None for v in found))
    log_extra("seen", texts)
    return found


def by_ids(completion_ids, trainer_state, **kwargs):
    return [len(ids) * trainer_state.global_step / trainer_state.max_steps for ids in completion_ids]


def strict(prompts, completions):
    return [0.5] * len(completions)


def needs_more(completions, missing, **kwargs):
    return [0.0] * len(completions)


def helper(text):
    return text


def _score(completions, **kwargs):
    return [0.0]
'''

SWIFT = '''
import re
import swift.plugin
from swift.llm import PtEngine, Template
from swift.plugin import ORM, orms, rm_plugins
from swift.plugin.multi_turn import MultiTurnScheduler, multi_turns
from swift.rewards import AsyncORM
from swift.utils import get_logger

logger = get_logger()
assert swift.plugin.orms is orms


class Exact(ORM):
    """1 where the completion is the solution."""

    def __call__(self, completions, solution, **kwargs):
        logger.debug("scoring")
        return [float(c == s) for c, s in zip(completions, solution)]


class Late(AsyncORM):
    def __init__(self, args=None, **kwargs):
        super().__init__(args, **kwargs)
        self.factor = getattr(args, "factor", 2.0)

    async def __call__(self, completions, messages, is_truncated, **kwargs):
        from swift.plugin.orm import ORM as again
        assert again is ORM and [m[-1]["content"] for m in messages] == completions
        return [None if cut else self.factor * len(m) for m, cut in zip(messages, is_truncated)]


class Scheduler(MultiTurnScheduler):
    pass


class Old(ORM):
    def __init__(self):
        pass

    def __call__(self, completions, **kwargs):
        return [PtEngine("model") for _ in completions]


orms["external_exact"] = Exact
orms["late"] = Late
orms["old"] = Old
multi_turns["mine"] = Scheduler
rm_plugins["mine"] = Exact
'''


def registry_of(folder: Path, text: str) -> Registry:
    path = folder / "my_rewards.py"
    path.write_text(text)
    return load(Selection(files=(str(path),)))


def samples(*, plain: bool = False) -> list[tuple[Sample, Completion]]:
    """Two rows with two completions each, the last one cut off."""
    texts = ["four", "4", "six", "sixteen"]
    made = []
    for i, text in enumerate(texts):
        asked = (Message("user", f"question {i // 2}"),)
        sample = Sample(asked, extras={"solution": "46"[i // 2]}, origin=f"rows.jsonl:{i // 2 + 1}", plain=plain)
        made.append((sample, Completion(tuple(range(i + 1)), text, "length" if i == 3 else "stop")))
    return made


def scored(registry: Registry, name: str, heard: Heard | None = None, *, plain: bool = False) -> list[float | None]:
    scoring = Scoring({name: Scorer(registry.get("rewards", name).build())})
    scoring.heard = heard or scoring.heard
    with closing(scoring):
        return scoring(samples(plain=plain), Moment(5, 10, 0.5))[name]


def test_functions_of_a_trl_file_are_rewards_under_either_spelling(tmp_path: Path) -> None:
    registry = registry_of(tmp_path, TRL)
    own = [c.name for c in registry.all("rewards") if c.distribution == str(tmp_path / "my_rewards.py")]
    assert own == ["Async-Reward", "by-ids", "length-reward", "needs-more", "strict"]
    assert registry.get("rewards", "length_reward") == registry.get("rewards", "length-reward")
    assert registry.get("rewards", "length-reward").spec.summary == "Longer is better."


def test_they_are_called_as_trl_calls_them(tmp_path: Path) -> None:
    registry, heard = registry_of(tmp_path, TRL), Heard()
    assert scored(registry, "length-reward") == scored(registry, "length-reward", plain=True) == [4, 1, 3, 7]
    assert scored(registry, "Async_Reward", heard) == [None, 1.0, None, None]
    assert heard.figures == {"rewards/Async_Reward/hits": [1.0]}
    assert [note["value"] for note in heard.notes] == ["four", "4", "six", "sixteen"]
    assert {k: heard.notes[2][k] for k in ("origin", "column")} == {"origin": "rows.jsonl:2", "column": "seen"}
    assert scored(registry, "by-ids") == [0.5, 1.0, 1.5, 2.0]
    assert scored(registry, "strict") == [0.5] * 4


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(TkError, match=r"rewards.needs_more: it needs the column 'missing', .*they have .*solution"):
        scored(registry_of(tmp_path, TRL), "needs-more")


RECORD = """
CALLS = []

def recorded(**kwargs):
    CALLS.append(kwargs)
    return [0.0] * len(kwargs["completions"])

def some_reward(prompts, completions, **kwargs):
    return recorded(prompts=prompts, completions=completions, **kwargs)
"""


@pytest.mark.parametrize("plain", [False, True])
def test_the_keywords_are_those_of_trl(tmp_path: Path, plain: bool) -> None:
    """TRL's own code that calls rewards is given the same rows."""
    torch = pytest.importorskip("torch")
    trainer = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
    target = registry_of(tmp_path, RECORD).get("rewards", "some-reward")
    function = vars(sys.modules[next(n for n in sys.modules if _is_recorder(n))])
    flat = samples(plain=plain)
    Scoring({"some-reward": Scorer(target.build())})(flat, Moment(5, 10, 0.5))
    ask, answer = (lambda s: s.messages[-1].text), (lambda c: c.text)
    if not plain:
        ask, answer = (lambda s: [_turn("user", s.messages[-1].text)]), (lambda c: [_turn("assistant", c.text)])
    this = SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device("cpu"), is_main_process=False),
        reward_funcs=[function["some_reward"]],
        reward_processing_classes=[None],
        reward_func_names=["some_reward"],
        state=SimpleNamespace(global_step=5),
        args=SimpleNamespace(report_to=[]),
        environments=None,
        _log_completion_extra=None,
        _log_metric=None,
    )
    trainer._calculate_rewards(
        this,
        [{"prompt": ask(s), **s.extras} for s, _ in flat],
        [ask(s) for s, _ in flat],
        [answer(c) for _, c in flat],
        [list(c.ids) for _, c in flat],
    )
    ours, theirs = function["CALLS"]
    assert ours.keys() == theirs.keys()
    told = ("trainer_state", "log_metric", "log_extra")
    assert {k: v for k, v in ours.items() if k not in told} == {k: v for k, v in theirs.items() if k not in told}


def _turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _is_recorder(name: str) -> bool:
    return name.startswith("tk_local_") and "CALLS" in vars(sys.modules[name]) and not sys.modules[name].CALLS


def test_classes_of_an_ms_swift_file_are_rewards_by_their_keys(tmp_path: Path) -> None:
    registry = registry_of(tmp_path, SWIFT)
    assert {"external_exact", "late", "old"} <= set(registry.names("rewards"))
    assert registry.get("rewards", "external-exact") == registry.get("rewards", "external_exact")
    assert scored(registry, "external_exact") == [0.0, 1.0, 0.0, 0.0]
    assert scored(registry, "late") == [4.0, 4.0, 4.0, None]
    with pytest.raises(TkError, match="swift.llm.PtEngine is ms-swift's own: pip install ms-swift"):
        scored(registry, "old")


def test_nothing_of_ms_swift_stays_or_is_seen_by_others(tmp_path: Path) -> None:
    before = builtins.__import__
    registry_of(tmp_path, SWIFT)
    assert [name for name in sys.modules if name.partition(".")[0] == "swift"] == []
    assert builtins.__import__ is before
    with pytest.raises(ModuleNotFoundError):
        import swift.plugin  # noqa: F401


def test_each_file_has_a_registry_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    registry_of(tmp_path, SWIFT)
    other = "from swift.rewards import ORM, orms\nclass One(ORM): pass\norms['one'] = One\n"
    names = registry_of(tmp_path / "other", other).names("rewards")
    assert "one" in names
    assert "external_exact" not in names


def test_an_installed_ms_swift_gives_the_rest_and_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of that name with that import name: the file's rewards are its own, all else comes from the package."""
    site = tmp_path / "site"
    (site / "swift" / "plugin").mkdir(parents=True)
    (site / "swift" / "plugin" / "__init__.py").write_text("orms = {'own': 1}\nORM = object\nextra = 'theirs'\n")
    (site / "swift" / "llm.py").write_text("class Template: pass\n")
    (site / "swift" / "__init__.py").touch()
    (site / "ms_swift-9.9.dist-info").mkdir()
    (site / "ms_swift-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: ms-swift\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(str(site))
    text = (
        "from swift.plugin import ORM, orms, extra\nfrom swift.llm import Template\nassert extra == 'theirs'\n"
        "Template()\nclass Mine(ORM):\n    def __call__(self, completions, **kw): return [1.0] * len(completions)\n"
        "orms['mine'] = Mine\n"
    )
    try:
        assert scored(registry_of(tmp_path, text), "mine") == [1.0] * 4
        import swift.plugin

        assert swift.plugin.orms == {"own": 1}
        assert swift.plugin.ORM is object
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "swift"]:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"my_rewards.py: nothing of a plugin is in it. Looked for: hooks .*@component.*trl \(Functions"),
        ("from swift.plugin import orms\norms['a b'] = int\n", "'a b' is no name for a reward"),
        ("from swift.plugin import orms\norms['a'] = 3\n", r"orms\['a'\] is int, not a class of rewards"),
        ("from swift.plugin import orms\norms['accuracy']()\n", r"orms\['accuracy'\] is a reward of ms-swift's own"),
        ("import trl_is_not_here\n", "needs the package 'trl_is_not_here', which is not installed"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TkError, match=message):
        registry_of(tmp_path, text)


def test_a_file_of_tk_is_not_read_as_anothers(tmp_path: Path) -> None:
    text = "from tk import component\n@component('rewards')\ndef mine(batch): return [1.0] * len(batch.completions)\n"
    registry = registry_of(tmp_path, text + "def helper(prompts, completions): ...\n")
    own = [c.name for c in registry.all("rewards") if c.distribution == str(tmp_path / "my_rewards.py")]
    assert own == ["mine"]
    assert scored(registry, "mine") == [1.0] * 4


def test_a_function_may_run_a_loop_of_its_own(tmp_path: Path) -> None:
    text = (
        "import asyncio\nasync def one(c): return 1.0\n"
        "def looped(prompts, completions, **kwargs):\n    return [asyncio.run(one(c)) for c in completions]\n"
    )
    assert scored(registry_of(tmp_path, text), "looped") == [1.0] * 4


def test_rewards_that_wait_wait_together(tmp_path: Path) -> None:
    text = (
        "import asyncio\nMET = []\n"
        "async def first(completions, **kwargs):\n    MET.append(1)\n"
        "    while len(MET) < 2: await asyncio.sleep(0.01)\n    return [1.0] * len(completions)\n"
        "async def second(completions, **kwargs):\n    MET.append(2)\n    return [2.0] * len(completions)\n"
    )
    registry = registry_of(tmp_path, text)
    rewards: dict[str, Any] = {n: Scorer(registry.get("rewards", n).build(), 20.0) for n in ("first", "second")}
    with closing(Scoring(rewards)) as scoring:
        assert scoring(samples()) == {"first": [1.0] * 4, "second": [2.0] * 4}
