"""Several runs, one after another, in processes that are started once."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tk_parallel.testing import run_processes


def train_many(
    configs: Sequence[Mapping[str, Any]],
    *,
    world: int = 1,
    timeout: float = 400,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Train once for each config, on `world` gloo processes. A UserWarning is an error. Raises AssertionError.

    environment: variables of the processes besides (run_processes).
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "configs.json"
        file.write_text(json.dumps(configs), encoding="utf-8")
        run_processes(Path(__file__), str(file), world=world, timeout=timeout, environment=environment)


def main(file: str) -> None:
    """What each process does."""
    import tk

    warnings.simplefilter("error", UserWarning)
    for config in json.loads(Path(file).read_text(encoding="utf-8")):
        tk.train(config)


if __name__ == "__main__":
    main(sys.argv[1])
