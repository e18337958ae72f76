"""Videos: tokens, tensors, positions and log-probs are those of transformers' released classes; bad ones are told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tk.errors import DataError
from tk.sample import Message, Part, Sample
from tk_conformance.videos import (
    FILMS,
    TORCHVISION,
    check_videos,
    conversations_with_videos,
    write_film,
    write_films,
)
from tk_conformance.vision import asked
from tk_qwen_vl.family import QwenVL
from tk_qwen_vl.options import QwenVLOptions

pytest.importorskip("av", reason="PyAV is not installed")


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return write_films(tmp_path_factory.mktemp("films"))


@pytest.mark.slow
@pytest.mark.skipif(not TORCHVISION.is_dir(), reason="torchvision is not installed beside the packages")
def test_ids_tensors_positions_and_log_probs(made: Any, films: Mapping[str, str]) -> None:
    samples = conversations_with_videos(films, str(made.folder / "0.png"))
    check_videos(made.model, made.template, type(made.processor).__name__, samples, fps=2.0)


def test_frames_are_as_many_as_asked_for(made: Any, films: Mapping[str, str]) -> None:
    few = QwenVL(QwenVLOptions(fps=1.0, max_frames=4)).load(made.model.path)
    assert few.media is not None
    (medium,) = few.media.open([Part("video", source=films["long"])], "a row")
    assert medium.size == (4, 112, 56)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "cannot be read as a video"),
        (lambda path: path.write_text("no film"), "cannot be read as a video"),
        (lambda path: path.unlink(), "there is no file"),
    ],
)
def test_bad_videos_are_told_with_their_row(made: Any, tmp_path: Path, harm: Any, message: str) -> None:
    path = tmp_path / "film.mp4"
    write_film(path, *FILMS["a"])
    harm(path)
    sample = Sample((asked(Part("video", source=str(path))), Message("assistant", "x")), origin="rows.jsonl:7")
    with pytest.raises(DataError, match=f"^rows.jsonl:7: .*{message}"):
        made.template.encode([sample])
