"""Writing to a run's folder so that what has its final name is whole: temporary name, fsync, rename."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tk.files import TEMPORARY, explained, sync

MANIFEST = "manifest.json"


def write_folder(folder: Path, fill: Callable[[Path], None], *, manifest: bool = True) -> None:
    """Make a folder with what `fill` puts into it, in the place of an older one; all of it or nothing."""
    temporary = folder.with_name(folder.name + TEMPORARY)
    with explained(folder, SafetensorError):
        discard(temporary)
        try:
            temporary.mkdir(parents=True)
            fill(temporary)
            for path in sorted(temporary.rglob("*")):
                sync(path)
            if manifest:
                text = json.dumps({"files": {p.name: _entry(p) for p in sorted(temporary.iterdir())}}, indent=1)
                (temporary / MANIFEST).write_text(text, encoding="utf-8")
                sync(temporary / MANIFEST)
            sync(temporary)
            remove(folder)
            temporary.rename(folder)
            sync(folder.parent)
        except BaseException:
            discard(temporary)
            raise


def problem(folder: Path) -> str:
    """What is wrong with a folder by its manifest; "" where it is whole."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, entry in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["size"]:
                return f"{name} has {path.stat().st_size} bytes instead of {entry['size']}"
            if _hash(path) != entry["sha256"]:
                return f"{name} is corrupt (its checksum differs)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {MANIFEST} cannot be read ({error})"
    return ""


def remove(path: Path) -> None:
    """Delete a folder or file under a temporary name, so that an interrupted deletion leaves nothing half."""
    if path.exists():
        temporary = aside(path)
        discard(temporary)
        path.rename(temporary)
        discard(temporary)


def aside(path: Path) -> Path:
    """The name of what is being deleted."""
    return path.with_name(f".{path.name}.old{TEMPORARY}")


def discard(path: Path) -> None:
    """Delete what may be half there anyway."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON: what is not finite becomes null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _entry(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": _hash(path)}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
