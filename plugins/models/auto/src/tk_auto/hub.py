"""From the name of a checkpoint to its folder: local folders as they are, hub ids through huggingface_hub's cache."""

from __future__ import annotations

import json
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from tk.errors import TkError, UsageError

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py", "*.tiktoken")
"""What a checkpoint consists of; pickled weights are never fetched."""

ETAG_TIMEOUT = 3.0
"""Seconds that the hub may take to answer before the cache is used."""


def resolve(name: str, revision: str | None = None) -> Path:
    """Folder of a checkpoint. Raises TkError where it is neither a folder, nor in the cache, nor to be had now."""
    if not name:
        raise UsageError("No checkpoint is named: give --model a folder, a hub id or a short name.")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UsageError(f"model.revision: {name} is a folder, which has no revisions.")
        check_folder(folder)
        return folder
    if folder.is_file():
        raise UsageError(f"{name} is a file; a checkpoint is a folder with config.json and *.safetensors.")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UsageError(f"There is no folder {name}.")
    return _fetch(name, revision)


def check_folder(folder: Path) -> None:
    """Raises TkError unless the folder has a config.json, saying what it holds instead."""
    if (folder / "config.json").is_file():
        return
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path") or "unknown"
        raise TkError(f"{folder} has no config.json: it holds an adapter, whose base model is {base}.")
    raise TkError(f"{folder} has no config.json, so it is not a checkpoint that transformers opens.")


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    from tk_auto.quiet import quiet

    what = f"{name!r}" if revision is None else f"{name!r} at revision {revision!r}"
    silent = _silence(name, revision)
    try:
        with quiet():
            fetched = snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(PATTERNS),
                etag_timeout=ETAG_TIMEOUT,
                local_files_only=bool(silent),
            )
    except HFValidationError as error:
        raise UsageError(f"{name!r} is neither a folder here nor a possible hub id.") from error
    except GatedRepoError as error:
        raise TkError(f"{what} is gated: accept its terms on the hub and log in with `hf auth login`.") from error
    except RevisionNotFoundError as error:
        raise UsageError(f"model.revision: the hub's {name!r} has no revision {revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise UsageError(f"{name!r} is no folder here, and the hub has no such model (or it is private).") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError) as error:
        raise TkError(
            f"{what} is no folder here and not in the hub's cache, and the hub cannot be reached "
            f"({silent or _first_line(error.__cause__ or error)}). Give a checkpoint's folder, or go online once."
        ) from error
    folder = Path(fetched)
    check_folder(folder)
    return folder


def _silence(name: str, revision: str | None) -> str:
    """Why the hub does not answer a question about a checkpoint in time; "" where it answers, whatever it says.

    `snapshot_download` asks without any limit, and no limit of an HTTP client holds for looking up a host's address.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    told: SimpleQueue[BaseException | None] = SimpleQueue()

    def ask() -> None:
        try:
            HfApi().repo_info(name, revision=revision, timeout=ETAG_TIMEOUT)
        except BaseException as error:  # noqa: BLE001  (handed on)
            told.put(error)
        else:
            told.put(None)

    Thread(target=ask, daemon=True).start()
    try:
        error = told.get(timeout=ETAG_TIMEOUT)
    except Empty:
        return f"no answer within {ETAG_TIMEOUT:g} s"
    return "" if error is None or isinstance(error, HfHubHTTPError) else _first_line(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
