"""Videos of LLaVA-OneVision are taken as transformers' released classes take them; the others take none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tk.errors import DataError
from tk.sample import Message, Part, Sample
from tk_conformance.videos import TORCHVISION, check_videos, conversations_with_videos, write_films
from tk_conformance.vision import asked
from tk_jinja.template import JinjaTemplate
from tk_llava.family import Llava
from tk_llava.options import LlavaOptions

pytest.importorskip("av", reason="PyAV is not installed")


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return write_films(tmp_path_factory.mktemp("films"))


def test_videos(made: Any, films: Mapping[str, str]) -> None:
    if made.kind != "llava_onevision":
        assert made.model.media is not None
        sample = Sample((asked(Part("video", source=films["a"])), Message("assistant", "x")), origin="rows.jsonl:7")
        with pytest.raises(DataError, match=r"^rows.jsonl:7: "):
            made.template.encode([sample])
        return
    if not TORCHVISION.is_dir():
        pytest.skip("torchvision is not installed beside the packages")
    model = Llava(LlavaOptions(frames=6)).load(str(made.model.path))
    template = JinjaTemplate(tokenizer=model.tokenizer, media=model.media)
    samples = conversations_with_videos(films, str(Path(made.folder) / "0.png"))
    check_videos(model, template, type(made.processor).__name__, samples, num_frames=6)
