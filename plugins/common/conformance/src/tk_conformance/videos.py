"""Families that take videos against transformers' released processors and models: short films, and the check.

Needs PyAV, and torchvision in a folder of its own (`TORCHVISION`): among the packages, one that does not fit torch would keep
transformers from importing any model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tk.contracts import LoadedModel, Template
from tk.sample import Message, Part, Sample
from tk.testing.need import need
from tk_conformance.vision import asked, check_sums

TORCHVISION = Path(sys.prefix) / "torchvision"
"""Where `pip install --no-deps --target` puts it."""
OTHERS = {"input_ids", "attention_mask", "mm_token_type_ids", "second_per_grid_ts", "positions", "logps"}
"""What the released classes give besides tensors of media."""
FILMS = {"a": (90, 60, 20, 10), "b": (200, 120, 7, 4), "c": (64, 64, 31, 30), "long": (56, 112, 50, 5)}
"""Width, height, frames, and frames a second."""


def write_film(path: Path, width: int, height: int, frames: int, rate: int) -> str:
    """A red square that moves over noise."""
    import av

    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            picture = noise.copy()
            picture[number % height : number % height + 16, number % width : number % width + 16] = (255, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def write_films(folder: Path) -> Mapping[str, str]:
    return {name: write_film(folder / f"{name}.mp4", *film) for name, film in FILMS.items()}


def conversations_with_videos(films: Mapping[str, str], picture: str) -> list[Sample]:
    """One film, two between words, and one beside a picture with another in a later turn."""

    def film(name: str) -> Part:
        return Part("video", source=films[name])

    rows = [
        (asked(film("a"), "What?"), Message("assistant", "A red square.")),
        (asked("first", film("b"), "then", film("c"), "?"), Message("assistant", "Two")),
        (
            asked(Part("image", source=picture), film("long"), "Compare."),
            Message("assistant", "No"),
            asked("Again", film("a")),
            Message("assistant", "Yes"),
        ),
    ]
    return [Sample(messages, origin=f"rows.jsonl:{line}") for line, messages in enumerate(rows, 1)]


def check_videos(
    model: LoadedModel, template: Template, processor: str, samples: Sequence[Sample], **sampling: Any
) -> None:
    """Ids, tensors, positions and log-probs of conversations with videos are those of transformers' released classes.

    processor: the class's name. sampling: how many frames it is to take, as the family does.
    """
    assert model.media is not None
    released, sums, encodings = _released(model, processor, samples, sampling), [], template.encode(samples)
    for sample, encoding, out in zip(samples, encodings, released, strict=True):
        where = sample.origin
        wanted_ids = out["input_ids"][0].tolist()
        need(list(encoding.ids) == wanted_ids, f"{where}: the ids {list(encoding.ids)}, and not {wanted_ids}")
        tensors = model.media.tensors(encoding.media)
        wanted = set(out) - OTHERS
        need(set(tensors) == wanted, f"{where}: {sorted(tensors)}, and not {sorted(wanted)}")
        for name, value in tensors.items():
            need(torch.equal(value, out[name]), f"{where}: {name} differs")
        positions = model.media.positions(encoding.ids, encoding.media)
        if positions is not None:
            need(positions[0].tolist() == list(range(len(encoding.ids))), f"{where}: tokens are counted otherwise")
            need(torch.equal(torch.from_numpy(positions)[1:], out["positions"]), f"{where}: other positions")
        sums.append((out["logps"] * torch.tensor(list(encoding.weights))[1:]).sum())
    check_sums(model, encodings, torch.stack(sums))


def _released(
    model: LoadedModel, processor: str, samples: Sequence[Sample], sampling: Mapping[str, Any]
) -> list[dict[str, Tensor]]:
    """What the released classes make of each sample."""
    chats = json.dumps([[_plain(message) for message in sample.messages] for sample in samples])
    script = str(Path(__file__).with_name("released_videos.py"))
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "made.safetensors")
        given = [str(TORCHVISION), str(model.path), processor, chats, json.dumps(sampling), out]
        done = subprocess.run([sys.executable, script, *given], capture_output=True, text=True)
        need(done.returncode == 0, f"transformers' own classes failed:\n{done.stderr}")
        found = load_file(out)
    return [
        {n.partition(".")[2]: value for n, value in found.items() if n.startswith(f"{number}.")}
        for number in range(len(samples))
    ]


def _plain(message: Message) -> dict[str, Any]:
    parts = (Part("text", message.content),) if isinstance(message.content, str) else message.content
    content = [
        {"type": p.type, "text": p.text} if p.type == "text" else {"type": p.type, p.type: p.source} for p in parts
    ]
    return {"role": message.role, "content": content}
