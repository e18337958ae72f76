"""How a checkpoint makes one vector of a text, in the files of sentence-transformers (modules.json, 1_Pooling)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from tk.contracts import Pooling
from tk.errors import TkError

POOLING = "1_Pooling"
MODES: dict[Pooling, str] = {"mean": "mean_tokens", "last": "lasttoken", "first": "cls_token"}
"""Pooling -> the switch that older releases have for it."""

WORDS = {"mean": "mean", "cls": "first", "lasttoken": "last"}
"""Newer releases' pooling_mode -> pooling."""


def pooling_of(folder: Path) -> Pooling:
    """What the checkpoint says of its pooling, "mean" where it says nothing. Raises TkError for one that tk has not."""
    path = folder / POOLING / "config.json"
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "mean"
    except (OSError, ValueError) as error:
        raise TkError(f"{path} cannot be read: {error}") from error
    if "pooling_mode" in said:
        found = [WORDS.get(said["pooling_mode"], said["pooling_mode"])]
    else:
        switched = {key.removeprefix("pooling_mode_") for key, on in said.items() if on is True and "_mode_" in key}
        known = {mode: pooling for pooling, mode in MODES.items()}
        found = [known.get(mode, mode) for mode in sorted(switched)] or ["mean"]
    for pooling in get_args(Pooling):
        if found == [pooling]:
            return pooling  # type: ignore[no-any-return]
    raise TkError(f"{path}: pooling by {' and '.join(map(str, found))} is not known: {', '.join(MODES)} are.")


def write(folder: Path, pooling: Pooling, size: int) -> None:
    """The files by which every release of sentence-transformers opens a checkpoint. size: numbers of a vector."""
    parts = {"": "Transformer", POOLING: "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(parts.items())
    ]
    switches = {f"pooling_mode_{mode}": name == pooling for name, mode in MODES.items()}
    for path in (POOLING, "2_Normalize"):
        (folder / path).mkdir()
    _write(folder / POOLING / "config.json", {"word_embedding_dimension": size, **switches})
    _write(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    _write(folder / "modules.json", modules)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
