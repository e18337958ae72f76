"""The reward `accuracy`: what counts as the same answer, and that no completion stops or stalls a run."""

import asyncio
import math
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tk.contracts import Scored
from tk.errors import UsageError
from tk.sample import Message
from tk_math.accuracy import Accuracy, answer_part
from tk_math.options import AccuracyOptions


@pytest.fixture(scope="module")
def accuracy():
    reward = Accuracy(AccuracyOptions())
    yield reward
    reward.close()


def score(reward, answers, column="solution", **columns):
    batch = Scored(
        prompts=[(Message("user", "?"),)] * len(answers),
        completions=[Message("assistant", answer) for answer in answers],
        columns=columns or {column: ["42"] * len(answers)},
    )
    return list(asyncio.run(reward(batch)))


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", r"So it is \boxed{42}."),
        ("42", "The answer is 42."),
        (r"\frac{1}{2}", r"\boxed{0.5}"),
        (r"$\frac12$", r"\boxed{\frac{2}{4}}"),
        ("The total is 9 + 9 eggs.\n#### 18", r"That makes $18$."),
        (r"\{1, 2\}", r"\boxed{\{2, 1\}}"),
        (r"[1,2)", r"$x \in [1,2)$"),
        ("x^2 + 2x + 1", r"\boxed{(x+1)^2}"),
        ("1,000", r"\boxed{1000}"),
        (r"\boxed{12\text{ cm}}", r"\boxed{12}"),
        ("Evelyn", r"\boxed{\text{Evelyn}}"),
        ("north pole", r"\boxed{north pole}"),
        ("B", "The answer is (B)."),
        ("(B)", r"\boxed{B}"),
        (7, r"\boxed{7}"),
        ("42", r"<think>41? no, 40.</think> \boxed{42}"),
    ],
)
def test_the_same_answer_in_another_form_scores_one(accuracy, gold, answer):
    assert score(accuracy, [answer], solution=[gold]) == [1.0]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", r"\boxed{41}"),
        ("42", ""),
        ("42", "   \n"),
        ("42", r"\boxed{\frac{}"),
        ("42", "no idea"),
        ("42", r"<think>it could be \boxed{42}"),
        ("42", r"<think>\boxed{42}</think>"),
        ("Evelyn", r"\boxed{nylevE}"),
        ("B", "A thing that is not B, so the answer is C."),
        (r"\{1, 2\}", r"\boxed{\{1, 3\}}"),
    ],
)
def test_another_answer_or_none_scores_zero(accuracy, gold, answer):
    assert score(accuracy, [answer], solution=[gold]) == [0.0]


def test_a_row_without_a_readable_gold_answer_is_left_out(accuracy):
    golds = [None, "", "  ", r"\boxed{}", "Prove it.\nBy induction.", "5"]
    assert score(accuracy, [r"\boxed{5}"] * 6, solution=golds) == [None, None, None, None, None, 1.0]


def test_the_column_answer_is_read_where_solution_is_missing(accuracy):
    assert score(accuracy, [r"\boxed{3}"], answer=["3"]) == [1.0]
    assert score(accuracy, [r"\boxed{3}", r"\boxed{3}"], solution=[None, "4"], answer=["3", "3"]) == [1.0, 0.0]


def test_rows_without_any_gold_column_are_a_usage_error(accuracy):
    with pytest.raises(UsageError, match=r"no column 'solution' and no 'answer' \(columns: level\)"):
        score(accuracy, ["1"], level=[3])


def test_extract_narrows_where_an_answer_may_stand():
    answers = ["The answer is 42.", "It is $42$.", r"\boxed{42}"]
    for extract, wanted in {"any": [1.0, 1.0, 1.0], "boxed": [0.0, 0.0, 1.0]}.items():
        reward = Accuracy(AccuracyOptions(extract=extract))
        assert score(reward, answers) == wanted
        reward.close()


def test_an_answer_that_cannot_be_computed_costs_its_time_limit_only():
    reward = Accuracy(AccuracyOptions(timeout=2.0))
    score(reward, [r"\boxed{42}"])
    began = time.monotonic()
    scores = score(reward, [r"\boxed{9^{9^{9^{9}}}}", r"\boxed{42}"])
    assert scores == [0.0, 1.0]
    assert time.monotonic() - began < 30
    reward.close()


def test_a_worker_that_died_is_replaced(accuracy):
    score(accuracy, [r"\boxed{42}"])
    checker = accuracy._idle.get()
    checker._process.kill()
    accuracy._idle.put(checker)
    assert score(accuracy, [r"\boxed{42}"] * 2) == [1.0, 1.0]


def test_several_workers_keep_the_order():
    reward = Accuracy(AccuracyOptions(workers=2))
    answers = [rf"\boxed{{{i % 2}}}" for i in range(12)]
    assert score(reward, answers, solution=["1"] * 12) == [float(i % 2) for i in range(12)]
    reward.close()


def test_workers_end_with_the_reward():
    reward = Accuracy(AccuracyOptions())
    score(reward, [r"\boxed{42}"])
    process = reward._idle.queue[0]._process
    del reward
    assert process.wait(timeout=10) is not None
    assert not Path(f"/proc/{process.pid}").exists()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(st.text(max_size=60), st.none() | st.text(max_size=20)), max_size=4))
def test_any_text_gives_one_finite_score_or_none_a_completion(accuracy, pairs):
    scores = score(accuracy, [a for a, _ in pairs], solution=[g for _, g in pairs])
    assert len(scores) == len(pairs)
    assert all(value is None or (math.isfinite(value) and value in (0.0, 1.0)) for value in scores)


def test_equals_the_reference_implementation_on_latex_answers():
    reference = pytest.importorskip("trl.rewards").accuracy_reward
    golds = [r"\frac{1}{3}", r"\frac{1}{3}", "42", r"\boxed{x^2}", r"$\sqrt{8}$", "1,000"]
    answers = [
        r"My answer is \boxed{\frac{1}{3}}",
        r"My answer is \boxed{\frac{1}{2}}",
        "The answer is 42",
        r"First \boxed{x} then \boxed{x \cdot x}",
        r"\boxed{2\sqrt{2}}",
        r"\boxed{1000}",
    ]
    reward = Accuracy(AccuracyOptions(extract="latex"))
    wanted = reference([[{"role": "assistant", "content": answer}] for answer in answers], solution=golds)
    assert score(reward, answers, solution=golds) == wanted
    reward.close()


def test_what_stands_in_reasoning_is_no_answer():
    assert answer_part("<think>a</think> b") == "b"
    assert answer_part("reasoning </think> b </think> c") == "c"
    assert answer_part("<think> never ends") == ""
    assert answer_part(" plain ") == "plain"
