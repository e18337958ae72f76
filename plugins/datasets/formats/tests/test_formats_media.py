"""Pictures in columns: where they stand in a row of each format, and what is said where they do not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tk.plugins import load
from tk.sample import Message, Part, Sample

REGISTRY = load()


def read(name: str, row: dict[str, Any]) -> Sample:
    sample: Sample = REGISTRY.get("formats", name).build()(row)
    return sample


def text(said: str) -> Part:
    return Part("text", said)


def image(source: str | bytes) -> Part:
    return Part("image", source=source)


CHAT = [{"role": "user", "content": "<image>What? <image>"}, {"role": "assistant", "content": "A cat."}]
WANTED = (image("a.png"), text("What? "), image("b.png"))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("messages", {"messages": CHAT}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What? "}, {"type": "image"}]}]}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "<image>What? <image>"}, {"from": "gpt", "value": "A cat."}]}),
        ("alpaca", {"instruction": "<image>What? <image>", "output": "A cat."}),
        ("prompt-completion", {"prompt": "<image>What? <image>", "completion": "A cat."}),
        ("prompt-completion", {"prompt": "<image>What? <image>"}),
        ("preference", {"prompt": "<image>What? <image>", "chosen": "A cat.", "rejected": "A dog."}),
        ("text", {"text": "<image>What? <image>", "label": "cat"}),
        ("passages", {"query": "<image>What? <image>", "positive": "A cat."}),
    ],
)  # fmt: skip
def test_pictures_stand_where_the_tags_are(name: str, row: dict[str, Any]) -> None:
    sample = read(name, {**row, "images": ["a.png", "b.png"]})
    assert sample.messages[0] == Message("user", WANTED, loss=sample.messages[0].loss)
    assert sample.text == ""
    assert sample.extras["images"] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("value", "sources"),
    [
        ("a.png", ["a.png"]),
        (["a.png", "https://x.org/b.png"], ["a.png", "https://x.org/b.png"]),
        (b"png", [b"png"]),
        ({"bytes": b"png", "path": "a.png"}, [b"png"]),
        ([{"bytes": None, "path": "a.png"}], ["a.png"]),
        ({"bytes": "cG5n"}, ["data:;base64,cG5n"]),
        (json.dumps(["a.png", "b.png"]), ["a.png", "b.png"]),
    ],
)
def test_without_a_place_they_stand_before_the_first_users_words(value: Any, sources: list[Any]) -> None:
    messages = [{"role": "system", "content": "Look."}, {"role": "user", "content": "What?"}, CHAT[1]]
    for column in ("image", "images"):
        sample = read("messages", {"messages": messages, column: value})
        assert sample.messages[1].content == (*map(image, sources), text("What?"))


@pytest.mark.parametrize("empty", [None, [], ""])
def test_a_tag_without_pictures_is_text(empty: Any) -> None:
    assert read("messages", {"messages": CHAT, "images": empty}).messages[0].content == "<image>What? <image>"
    assert read("text", {"text": "<image>"}).text == "<image>"


def test_media_of_several_types_and_turns() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "<video>and<image>"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "<audio><image>?"},
        ],
        "images": ["a.png", "b.png"],
        "videos": "v.mp4",
        "audio": "s.wav",
    }
    first, _, last = read("messages", row).messages
    assert first.content == (Part("video", source="v.mp4"), text("and"), image("a.png"))
    assert last.content == (Part("audio", source="s.wav"), image("b.png"), text("?"))


def test_both_answers_follow_the_same_pictures() -> None:
    row = {"prompt": "<image>Draw.", "chosen": "<image>", "rejected": "<image>!", "images": ["a.png", "b.png"]}
    sample = read("preference", row)
    assert sample.shared == 1
    assert [m.content for m in sample.messages] == [(image("a.png"), text("Draw.")), (image("b.png"),)]
    assert [m.content for m in sample.rejected] == [(image("b.png"), text("!"))]
    plain = read("preference", {**row, "chosen": "Yes.", "rejected": "No.", "images": "a.png"})
    assert plain.rejected == (Message("assistant", "No."),)


def test_a_rejected_conversation_may_have_pictures_of_its_own() -> None:
    row = {
        "prompt": "<image>What?",
        "chosen": "A cat.",
        "rejected": "A dog.",
        "images": "a.png",
        "rejected_images": "b.png",
    }
    sample = read("preference", row)
    assert sample.shared == 0
    assert sample.messages == (
        Message("user", (image("a.png"), text("What?")), loss=0.0),
        Message("assistant", "A cat."),
    )
    assert sample.rejected == (
        Message("user", (image("b.png"), text("What?")), loss=0.0),
        Message("assistant", "A dog."),
    )


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("messages", {"messages": CHAT, "images": ["a.png"]}, "images: 1 of them, and 2 places"),
        ("messages", {"messages": CHAT, "images": ["a", "b", "c"]}, "images: 3 of them, and 2 places"),
        ("messages", {"messages": CHAT, "images": ["a", "b"], "image": "c"}, "both images and image"),
        ("messages", {"messages": CHAT, "images": ["a", 3]}, r"images\[1\] must be a path, a URL or bytes, not a number"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "no column images"),
        ("preference", {"prompt": "<image>", "chosen": "<image>", "rejected": "x<image><image>", "images": ["a", "b"]}, "2 of them, and 3"),
        ("preference", {"prompt": "<image>", "chosen": "x", "rejected": "y", "images": "a", "rejected_images": ["b", "c"]}, "rejected_images: 2"),
    ],
)  # fmt: skip
def test_what_can_be_wrong(name: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(name, row)


words = st.text(st.characters(blacklist_characters="<>", blacklist_categories=("Cs",)), max_size=6)


@given(st.lists(st.tuples(words, st.booleans()), min_size=1, max_size=8))
def test_nothing_is_lost_or_moved(pieces: list[tuple[str, bool]]) -> None:
    """The text with its tags is the text without, and every picture stands behind what stood before it."""
    said = "".join(text + ("<image>" if tagged else "") for text, tagged in pieces)
    sources = [f"{i}.png" for i, (_, tagged) in enumerate(pieces) if tagged]
    if not said.strip() or not sources:
        return
    (message,) = read("messages", {"messages": [{"role": "user", "content": said}], "images": sources}).messages
    assert [part.source for part in message.content if part.type == "image"] == sources  # type: ignore[union-attr]
    assert "".join(p.text or "<image>" for p in message.content) == said  # type: ignore[union-attr]
