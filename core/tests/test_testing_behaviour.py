"""The behavioural checks accept what keeps its contract and reject what does not."""

import asyncio
import json
from dataclasses import dataclass, field

import pytest

from tk.callbacks import Base
from tk.contracts import Encoding, Row
from tk.errors import DataError
from tk.sample import Message
from tk.testing import (
    check_callback,
    check_dataset,
    check_metric,
    check_reward,
    check_schedule,
    check_template,
    check_tracker,
    reward_batches,
)


def reward(score):
    class Reward:
        async def __call__(self, batch):
            return [score(message) for message in batch.completions]

    return Reward()


def test_a_reward_gives_one_finite_float_or_none_a_completion():
    scores = check_reward(reward(lambda message: None if not message.text else len(message.text) / 10))
    assert [len(batch) for batch in scores] == [0, 1, 10]
    assert scores[2][0] is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "1", True, [1.0]])
def test_a_reward_that_is_no_finite_float_is_rejected(bad):
    with pytest.raises(AssertionError, match="a finite float or None"):
        check_reward(reward(lambda message: bad))


def test_a_reward_may_await_or_not_and_has_a_score_for_each():
    class Short:
        async def __call__(self, batch):
            return [1.0]

    class Plain:
        def __call__(self, batch):
            return [1.0] * len(batch.completions)

    with pytest.raises(AssertionError, match="1 scores for 0 completions"):
        check_reward(Short())
    assert check_reward(Plain())[1] == [1.0]


def test_reward_batches_fill_the_columns_that_are_asked_for():
    for batch in reward_batches({"solution": "4"}):
        assert batch.columns == {"solution": ["4"] * len(batch.completions)}


class Counter(Base):
    """Stops after three evaluations."""

    def __init__(self):
        self.seen = 0

    def on_eval(self, control, metrics):
        self.seen += 1
        if self.seen == 3:
            control.stop("three evaluations")
            control.save()

    def state(self):
        return {"seen": self.seen}

    def load(self, state):
        self.seen = state["seen"]


def test_a_callback_that_keeps_its_state_passes():
    assert check_callback(Counter)[:2] == ("three evaluations", (3,))
    check_callback(Base)


def test_a_callback_that_forgets_its_state_is_rejected():
    class Forgets(Counter):
        def state(self):
            return {}

        def load(self, state):
            pass

    class Partly(Counter):
        def load(self, state):
            self.seen = 0

    class NotJson(Counter):
        def state(self):
            return {"seen": {self.seen}}

    with pytest.raises(AssertionError, match="resumed after 1 evaluations decides otherwise"):
        check_callback(Forgets)
    with pytest.raises(AssertionError, match="does not take back what"):
        check_callback(Partly)
    with pytest.raises(AssertionError, match="is not JSON"):
        check_callback(NotJson)


def test_a_schedule_is_a_pure_function_of_the_step():
    check_schedule(lambda step, total: 1 - step / total)
    calls = []
    with pytest.raises(AssertionError, match="no pure function"):
        check_schedule(lambda step, total: calls.append(0) or 1 / len(calls))
    with pytest.raises(AssertionError, match="a finite number from 0 up"):
        check_schedule(lambda step, total: -1.0)


def test_a_metric_does_not_depend_on_the_order_of_records():
    records = [{"hit": 1}, {"hit": 0}, {"hit": 1}]
    assert check_metric(lambda rows: {"rate": sum(r["hit"] for r in rows) / len(rows)}, records)["rate"] == 2 / 3
    with pytest.raises(AssertionError, match="depends on the records' order"):
        check_metric(lambda rows: {"first": rows[1]["hit"] + 2 * rows[0]["hit"]}, [{"hit": 1}, {"hit": 0}])


class Files:
    """A tracker that writes lines of JSON."""

    def __init__(self, folder):
        self.path = folder / "figures.jsonl"

    def start(self, plan, config, step):
        self.path.write_text(json.dumps({"steps": plan.steps}) + "\n")

    def log(self, kind, step, figures):
        with self.path.open("a") as file:
            file.write(json.dumps([kind, step, dict(figures)]) + "\n")

    def finish(self, result):
        pass


def test_a_tracker_survives_whole_failed_and_unstarted_runs(tmp_path):
    assert [path.name for path in check_tracker(Files, tmp_path)] == ["figures.jsonl"]


@dataclass
class Rows:
    values: list
    fingerprint: str = "0" * 64

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return Row(self.values[index], f"rows:{index + 1}")


@dataclass
class Set:
    rows: Rows = field(default_factory=lambda: Rows([{"a": 1}, {"a": 2}]))

    def open(self, path):
        return self.rows


def test_a_data_set_has_random_access_an_end_and_a_fingerprint():
    assert len(check_dataset(Set())) == 2
    with pytest.raises(AssertionError, match="no sha256"):
        check_dataset(Set(Rows([1], fingerprint="abc")))
    with pytest.raises(AssertionError, match="no rows"):
        check_dataset(Set(Rows([])))

    class Endless(Rows):
        def __getitem__(self, index):
            return Row(0, f"rows:{index}")

    with pytest.raises(AssertionError, match="does not raise IndexError"):
        check_dataset(Set(Endless([1])))


class Letters:
    """A tokenizer of one token a character whose chat format is <role>text<end>."""

    def decode(self, ids):
        return "".join(chr(i) for i in ids)

    def apply_chat_template(self, messages, tools=None, tokenize=True, add_generation_prompt=False, return_dict=False):
        text = "".join(f"<{m['role']}>{m['content']}\x03" for m in messages)
        return [ord(c) for c in text + ("<assistant>" if add_generation_prompt else "")]


class Marks:
    """The same format as a template."""

    trained = ("assistant",)
    mark = "<{}>"

    def encode(self, samples, *, generation=False):
        return [self.one(sample, generation) for sample in samples]

    def one(self, sample, generation):
        ids, weights = [], []
        for message in sample.messages:
            if not message.text:
                raise DataError(f"{sample.origin}: empty")
            for text, weight in (
                (self.mark.format(message.role), 0.0),
                (message.text + "\x03", float(message.role in self.trained and not generation)),
            ):
                ids += [ord(c) for c in text]
                weights += [weight] * len(text)
        start = [ord(c) for c in "<assistant>"] if generation else []
        return Encoding(ids + start, weights + [0.0] * len(start))

    def extend(self, ids, messages):
        more = [ord(c) for m in messages for c in f"<{m.role}>{m.text}\x03"] + [ord(c) for c in "<assistant>"]
        return Encoding([*ids, *more], [0.0] * (len(ids) + len(more)))

    def stop_ids(self):
        return (3,)

    def read(self, ids):
        return Message("assistant", "".join(chr(i) for i in ids if i != 3))

    def reader(self):
        return Letter()


class Letter:
    """Each token is a letter."""

    def push(self, ids):
        return "".join(map(chr, ids))


def test_a_template_that_renders_as_the_tokenizer_does_passes():
    encodings = check_template(Marks(), Letters())
    assert len(encodings) == 5


def test_a_template_that_renders_otherwise_or_trains_the_user_is_rejected():
    class Other(Marks):
        mark = "[{}]"

    class TrainsAll(Marks):
        trained = ("assistant", "user", "system")

    class TrainsNone(Marks):
        trained = ()

    with pytest.raises(AssertionError, match=r"talk:0: the ids differ .* at token 0: '\[user\]Hi"):
        check_template(Other(), Letters())
    with pytest.raises(AssertionError, match="what the user says is trained"):
        check_template(TrainsAll(), Letters())
    with pytest.raises(AssertionError, match="is not trained"):
        check_template(TrainsNone(), Letters())


def test_a_template_that_does_not_read_its_own_answers_is_rejected():
    class Reads(Marks):
        def read(self, ids):
            return Message("assistant", "".join(map(chr, ids)))

    with pytest.raises(AssertionError, match=r"is read as '.*\\x03'"):
        check_template(Reads(), Letters())


def test_a_template_whose_reader_tells_what_was_not_said_is_rejected():
    class Shouts(Letter):
        def push(self, ids):
            return super().push(ids).upper()

    class Reads(Marks):
        def reader(self):
            return Shouts()

    with pytest.raises(AssertionError, match="on its way"):
        check_template(Reads(), Letters())


def test_base_bears_every_event():
    base = Base()
    base.on_step(None, {})
    base.on_eval(None, {})
    base.on_checkpoint(None, None)
    base.load(base.state())
    assert base.state() == {}


def test_batches_end_with_every_kind_of_content():
    *_, many = reward_batches()
    assert isinstance(many.completions[-1].content, tuple)
    assert asyncio.run(reward(lambda m: float(len(m.text)))(many))[-1] == len("in parts")
    assert Message("assistant", many.completions[-1].content).text == "in parts"
