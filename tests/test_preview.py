"""`tk data preview` and `tk chat` with pictures, on a tiny Qwen2-VL and on SmolLM2's tokenizer."""

from __future__ import annotations

import base64
import io
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tk import inference, preview, setup
from tk.cli import preview as pages
from tk.contracts import Request
from tk.sample import Message, Part, Sample
from tk_conformance.videos import write_films

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits" / "make.py"
PAIRS = [
    {"prompt": "2+2?", "chosen": "4", "rejected": "<script>alert(1)</script> & 5", "origin": "<b>x</b>"},
    {"prompt": "Say hi", "chosen": "hi", "rejected": "hi"},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preview")
    runpy.run_path(str(EXAMPLE))["write_model"](folder / "model")
    Image.new("RGB", (112, 56), (200, 30, 30)).save(folder / "red.png")
    rows = [
        {"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "red"}], "images": ["red.png"]},
        {"messages": [{"role": "user", "content": "Hm"}, {"role": "assistant", "content": "ok"}]},
        {"messages": [{"role": "user", "content": "<image>What?"}], "images": ["red.png", "red.png"]},
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return folder


def plan(place: Path, rows: str, **sections: Any) -> Any:
    model = {"name": str(place / "model"), "min_pixels": 784, "max_pixels": 20000}
    return setup.plan(setup.Given(values=[{"model": model, "data": str(place / rows), **sections}]))


def test_rows_with_pictures_as_the_model_sees_them(place: Path) -> None:
    first, second, third = preview.preview(plan(place, "rows.jsonl"), 8)
    (laid,) = first.sequences
    assert [t.repeated for t in laid.tokens if t.text == "[image]"] == [8]  # 112×56 pixels: 4 by 2 tokens
    assert "".join(t.text for t in laid.tokens if t.weight) == "red<|im_end|>"
    seen = Image.open(io.BytesIO(first.media[0].seen))
    assert seen.size == (112, 56)
    assert max(abs(a - b) for a, b in zip(seen.getpixel((50, 30)), (200, 30, 30), strict=True)) <= 1  # type: ignore[arg-type]
    assert not second.media
    assert third.problem.startswith("images: 2 of them, and 1 places")


@pytest.mark.parametrize(
    ("method", "rows", "names"),
    [
        ("dpo", {"prompt": "2+2?", "chosen": "4", "rejected": "5"}, ["chosen", "rejected"]),
        ("reward", {"prompt": "2+2?", "chosen": "4", "rejected": "5"}, ["chosen", "rejected"]),
        ("embedding", {"query": "a", "positive": "b", "negative": "c"}, ["query", "positive", "negative"]),
        ({"name": "classification", "labels": ["no", "yes"]}, {"text": "a", "label": "yes"}, [""]),
        ("grpo", {"prompt": "2+2?", "answer": "4"}, ["prompt"]),
        ("pt", {"text": "abc"}, [""]),
    ],
)
def test_every_method_shows_its_rows(place: Path, tmp_path: Path, method: Any, rows: Any, names: list[str]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(rows) + "\n")
    more = {"rewards": {"accuracy": 1.0}} if method == "grpo" else {}
    (row,) = preview.preview(plan(place, str(file), method=method, **more), 8)
    assert not row.problem
    assert [laid.name for laid in row.sequences] == names
    assert row.label == rows.get("label")
    if row.label is not None:
        assert f"label: {row.label}" in pages.page([row])
    if names[0] == "chosen":
        assert 0 < row.shared < row.sequences[0].length


def test_the_page_holds_everything_and_runs_nothing(place: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    words = ["data", "preview", "--model", str(place / "model"), "--model.max-pixels", "20000"]
    for name, method in (("pairs", "dpo"), ("rows", "sft")):
        page = tmp_path / f"{name}.html"
        done = command(*words, "--data", str(place / f"{name}.jsonl"), "--method", method, "--to", str(page))
        assert done.code == 0, done.err
        assert str(page) in done.out
        text = page.read_text()
        assert "<script" not in text
        assert "http" not in re.sub(r"data:[^\"]*", "", text)
    assert "chosen and rejected are the same" in (tmp_path / "pairs.html").read_text()
    assert "&lt;b&gt;x&lt;/b&gt;" in (tmp_path / "pairs.html").read_text()
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', (tmp_path / "rows.html").read_text())
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (112, 56)
    again = command(*words, "--data", str(place / "rows.jsonl"), "--to", str(tmp_path / "rows.html"))
    assert again.code == 2
    told = json.loads(command(*words, "--data", str(place / "rows.jsonl"), "--json", "--rows", "1").out)
    assert [row["origin"].rpartition("/")[2] for row in told] == ["rows.jsonl:1"]
    assert told[0]["sequences"][0]["trained"] == 4


def test_a_talk_keeps_its_pictures(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second turn is asked with both turns' pictures, each where the whole conversation has it."""
    talk = inference.Conversation(plan(place, "rows.jsonl", sampling={"max_tokens": 3}))
    engine, template = talk._loaded.engine, talk._loaded.template
    asked: list[Request] = []
    add = engine.add
    monkeypatch.setattr(engine, "add", lambda request: (asked.append(request), add(request))[1])
    image = str(place / "red.png")
    for images in ([image], [image, image]):
        list(talk.say("What?", images))
    first, second = asked
    assert [m.source for m in second.media] == [image] * 3
    marks = template.encode(  # type: ignore[attr-defined]
        [Sample((Message("user", (*[Part("image", source=image)] * 2, Part("text", "What?"))),))], generation=True
    )[0]
    starts = [m.start for m in second.media]
    for medium in second.media:
        span = second.ids[medium.start : medium.start + medium.length]
        assert set(span) == {talk._loaded.model.media.marks["image"]}  # type: ignore[union-attr]
    assert starts == sorted(starts)
    assert starts[0] == first.media[0].start
    assert second.ids[-len(marks.ids) + marks.media[0].start :] == list(marks.ids[marks.media[0].start :])


def test_chat_takes_videos(place: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    film = write_films(tmp_path)["a"]
    words = ["chat", "--model", str(place / "model"), "--sampling.max-tokens", "2"]
    done = command(*words, typed=f"/image {place / 'red.png'}\n/video {film}\nWhat?\nAnd?\n/quit\n")
    assert done.code == 0, done.err
    assert f"With the next message: {place / 'red.png'}, {film}" in done.err
    assert "error" not in done.err
    done = command(*words, "--prompt", "What?", "--video", "nope.mp4")
    assert done.code == 1
    assert "there is no file nope.mp4" in done.err


def test_chat_takes_pictures_and_says_what_is_wrong(place: Path, command: Callable[..., Any]) -> None:
    words = ["chat", "--model", str(place / "model"), "--model.max-pixels", "20000", "--sampling.max-tokens", "2"]
    said = f"/image {place / 'red.png'}\nWhat?\n/image nope.png\nWhat?\n/help\nAnd?\n/quit\n"
    done = command(*words, typed=said)
    assert done.code == 0, done.err
    assert f"With the next message: {place / 'red.png'}" in done.err
    assert "error: the message: there is no file nope.png" in done.err
    assert done.err.count("/image FILE") == 2
    done = command("chat", "--model", "smollm2-135m-instruct", "--prompt", "hi", "--image", str(place / "red.png"))
    assert done.code == 2
    assert "takes no pictures" in done.err
