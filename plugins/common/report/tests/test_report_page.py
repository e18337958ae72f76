"""The report shows what a run wrote, escapes what a model said, and bears whatever is missing."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tk_report import write_report
from tk_report.chart import Line, chart
from tk_report.page import page
from tk_report.reading import read_run, smooth
from tk_report.words import duration, large, yaml

TRAIN = [
    {"kind": "train", "step": s, "loss": 3.0 / s + 1, "lr": 1e-4, "grad_norm": 1.0, "tokens_per_second": 800.0}
    for s in range(1, 41)
]
EVALS = [
    {"kind": "eval", "step": 0, "set": "eval", "loss": 3.0, "loss_low": 2.8, "loss_high": 3.2, "rows": 120},
    {"kind": "eval", "step": 40, "set": "eval", "loss": 1.2, "loss_low": 1.1, "loss_high": 1.3, "rows": 120},
]
INFO = {
    "config": {"model": {"name": "hub/tiny-chat"}, "method": {"name": "sft"}, "tuner": {"name": "lora", "rank": 8}},
    "plugins": [{"distribution": "tk-plugin-lora", "version": "0.1.0"}],
    "plan": {"trainable": 1_500_000, "parameters": 135_000_000},
    "data": [
        {"name": "chat", "path": "chat.jsonl", "format": "messages", "rows": 130, "used": 121, "tokens": 4321,
         "skipped": {"the answer is empty": 7, "longer than 512 tokens": 2}, "fingerprint": "ab" * 32}
    ],
    "result": {"steps": 40, "seconds": 61.5, "tokens": 12345, "peak_memory": 2_000_000_000, "stopped": "",
               "next": {"talk to it": "tk chat --run it"},
               "checkpoints": [{"path": "checkpoint-40", "step": 40, "metrics": {"loss": 1.2}}]},
    "evals": {"first": EVALS[0], "last": EVALS[1]},
    "samples": [{"prompt": "Hi", "reference": "Hello", "before": "<b>Hm</b>", "after": "Hello & welcome"}],
    "timings": {"train": 50.0}, "hardware": {"cores": 2}, "seeds": {"train": 7},
}  # fmt: skip


def write_run(folder, info=INFO, lines=(*EVALS, *TRAIN)):
    if info is not None:
        (folder / "run.json").write_text(json.dumps(info))
    if lines is not None:
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def text_of(folder):
    """The page's text with single spaces, as a reader sees it; the parser fails on broken nesting."""

    class Text(HTMLParser):
        def __init__(self):
            super().__init__()
            self.parts, self.open, self.tags = [], [], set()

        def handle_starttag(self, tag, attrs):
            self.tags.add(tag)
            if tag not in ("meta", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_startendtag(self, tag, attrs):
            self.tags.add(tag)

        def handle_data(self, data):
            if "style" not in self.open[-1:]:
                self.parts.append(data)

    reader = Text()
    reader.feed((folder / "report.html").read_text("utf-8"))
    assert "script" not in reader.tags
    return re.sub(r"\s+", " ", " ".join(reader.parts))


def test_the_page_shows_what_the_run_came_to(tmp_path):
    written = write_report(write_run(tmp_path), html=True, plot=True)
    assert [path.name for path in written] == ["loss.png", "report.html"]
    text = text_of(tmp_path)
    for shown in (
        "tiny-chat — SFT · lora",
        "finished",
        "3.000 → 1.200",
        "below the 95 % interval of the untrained model",
        "3.0000 (2.800 – 3.200)",
        "-60.0 %",
        "the answer is empty 7",
        "longer than 512 tokens 2",
        "Hello & welcome",
        "<b>Hm</b>",
        "tk-plugin-lora 0.1.0",
        "checkpoint-40 40 loss 1.2000",
        "61.5 s",
        "2.00 GB",
        "rank: 8",
        "Talk to it tk chat --run it",
        f"tk train --config {tmp_path}/config.yaml",
    ):
        assert shown in text, shown


def test_the_loss_curve_is_a_png(tmp_path):
    write_report(write_run(tmp_path), html=False, plot=True)
    assert not (tmp_path / "report.html").exists()
    with Image.open(tmp_path / "loss.png") as image:
        assert image.format == "PNG"
        assert image.width >= 1000


def test_the_page_is_one_file_that_loads_nothing(tmp_path):
    write_report(write_run(tmp_path), html=True, plot=False)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page
    assert not (tmp_path / "loss.png").exists()


def test_a_result_within_the_interval_is_not_called_better(tmp_path):
    info = {**INFO, "evals": {"first": EVALS[0], "last": {**EVALS[1], "loss": 2.9}}}
    write_report(write_run(tmp_path, info), plot=False)
    assert "within the uncertainty" in text_of(tmp_path)


def test_several_sets_and_metrics_each_have_a_row(tmp_path):
    first = {"a": {"loss": 3.0}, "b": {"loss": 2.0, "accuracy": 0.25}}
    last = {"a": {"loss": 1.5}, "b": {"loss": 1.0, "accuracy": 0.5}}
    write_report(write_run(tmp_path, {**INFO, "evals": {"first": first, "last": last}}), plot=False)
    assert "b accuracy 0.2500 0.5000 +100.0 %" in text_of(tmp_path)


@pytest.mark.parametrize("key", sorted(INFO))
def test_any_key_may_be_missing_or_of_another_type(tmp_path, key):
    for other in (
        {k: v for k, v in INFO.items() if k != key},
        {**INFO, key: None},
        {**INFO, key: "?"},
        {**INFO, key: [1]},
    ):
        write_report(write_run(tmp_path, other), plot=False)
        text_of(tmp_path)


def test_a_run_that_wrote_nothing_still_has_a_report(tmp_path):
    assert [path.name for path in write_report(tmp_path)] == ["report.html"]
    assert "not finished" in text_of(tmp_path)


def test_a_run_that_diverged_or_was_cut_off_is_drawn(tmp_path):
    lines = [{**TRAIN[0], "loss": float("nan")}, {**TRAIN[1], "loss": float("inf")}, TRAIN[2]]
    write_run(tmp_path, {}, lines)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"kind": "train", "step": 4, "lo')
    run = read_run(tmp_path)
    assert run.series("loss") == [(3.0, 2.0)]
    assert len(write_report(tmp_path)) == 2


def test_steps_that_a_resumed_run_did_again_count_once(tmp_path):
    write_run(tmp_path, {}, [*TRAIN[:10], {**TRAIN[8], "loss": 9.0}])
    assert read_run(tmp_path).series("loss")[8] == (9.0, 9.0)
    assert len(read_run(tmp_path).series("loss")) == 10


def test_a_failed_write_leaves_the_report_before_it(tmp_path):
    write_report(write_run(tmp_path), plot=False)
    before = (tmp_path / "report.html").read_text()
    (tmp_path / "run.json").write_text("{broken")
    with pytest.raises(json.JSONDecodeError):
        write_report(tmp_path, plot=False)
    assert (tmp_path / "report.html").read_text() == before
    assert not list(tmp_path.glob(".report*"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.text() | st.sampled_from(["</section><script>alert(1)</script>", "<!--", "&lt;", '"><img src=x>']))
def test_no_answer_of_a_model_becomes_markup(tmp_path, answer):
    info = {"samples": [{"prompt": answer, "before": answer, "after": answer}], "config": {"model": {"name": answer}}}
    write_report(write_run(tmp_path, info, None), plot=False)
    text_of(tmp_path)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e6, 1e6)), min_size=1, max_size=60, unique_by=lambda p: p[0])
)
def test_charts_stay_within_their_frame(points):
    points = sorted((float(x), y) for x, y in points)
    drawn = chart([Line(points, "raw"), Line(smooth(points), "train", dots=True)], name="loss")
    for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", " ".join(re.findall(r'points="([^"]*)"', drawn))):
        assert 0 <= float(x) <= 920
        assert 0 <= float(y) <= 330


def test_smoothing_starts_without_bias_and_keeps_constants():
    assert smooth([(1.0, 5.0), (2.0, 5.0)], 0.9) == [(1.0, 5.0), (2.0, pytest.approx(5.0))]


def test_words():
    assert [duration(v) for v in (0.05, 12.34, 128, 7800)] == ["50 ms", "12.3 s", "2 min 08 s", "2 h 10 min"]
    assert [large(v).replace("\u00a0", " ") for v in (999, 12_345, 4_884_480, None)] == ["999", "12.3 K", "4.9 M", "–"]
    assert yaml({"a": {"b": 1e-5, "c": None}, "d": "off", "e": "x y", "f": []}) == (
        'a:\n  b: 1e-05\n  c: null\nd: "off"\ne: "x y"\nf: []'
    )


def test_only_pictures_that_stand_in_the_record_are_shown(tmp_path):
    urls = ["data:image/png;base64,AAAA", "http://elsewhere/x.png", 'data:image/png;base64,"><script>']
    info = {"samples": [{"prompt": "What?", "before": "a", "after": "b", "pictures": urls}]}
    write_report(write_run(tmp_path, info, None), plot=False)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img ") == 2
    assert "elsewhere" not in page.partition("<details")[0]
    assert "<script" not in page


def test_importing_it_draws_nothing():
    code = "import sys, tk_report; print([m for m in ('matplotlib', 'numpy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_failed_run_says_why_and_where_its_rows_went(tmp_path):
    (tmp_path / "final").mkdir()
    info = {
        **INFO,
        "error": "TkError: the disk is <full>",
        "rejects": "rejects.jsonl",
        "samples": [],
        "no_samples": "none",
    }
    write_report(write_run(tmp_path, info), plot=False)
    text = text_of(tmp_path)
    for shown in (
        "failed: TkError: the disk is <full>",
        "They are kept in rejects.jsonl",
        "Held-out rows, before and after none",
    ):
        assert shown in text
    assert f"The trained weights are in {tmp_path / 'final'}" in text


def test_answers_of_the_last_rollout_stand_beside_their_rewards(tmp_path):
    groups = [
        {
            "step": step,
            "prompt": f"What is {step} + <1>?",
            "answers": [
                {
                    "answer": "No <b>idea</b>",
                    "total": 0.25,
                    "rewards": {"accuracy": 0.0, "format": None},
                    "advantage": -1.0,
                },
                {"answer": "Four", "total": 1.0, "rewards": {"accuracy": 1.0, "format": 1.0}, "advantage": 1.0},
            ],
        }
        for step in (1, 3)
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(group) + "\n" for group in groups))
    text = page(read_run(tmp_path))
    assert "What is 3 + &lt;1&gt;?" in text
    assert "What is 1" not in text
    assert text.index("Four") < text.index("No &lt;b&gt;idea&lt;/b&gt;")
    assert "<b>idea" not in text
