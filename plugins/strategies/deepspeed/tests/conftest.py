"""Where DeepSpeed is for the processes of these tests.

It is looked for among the packages and, since everything that saves by transformers imports it where it is installed, in a
folder of its own beside them, as `make test` installs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

BESIDE = Path(sys.prefix) / "deepspeed"


@pytest.fixture(scope="session")
def processes() -> Iterator[Mapping[str, str]]:
    """Variables of processes that compute under DeepSpeed on the CPU; set here too, since runs are started from here."""
    beside = find_spec("deepspeed") is None
    if beside and not (BESIDE / "deepspeed").is_dir():
        pytest.skip("DeepSpeed is not installed: pip install 'tk-plugin-deepspeed[deepspeed]'")
    found = {"DS_ACCELERATOR": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            patch.delenv(name, raising=False)
        patch.setenv("PATH", os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)]))
        if beside:
            patch.syspath_prepend(str(BESIDE))
            patch.setenv("PATH", os.pathsep.join([os.environ["PATH"], str(BESIDE / "bin")]))
            inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
            patch.setenv("PYTHONPATH", os.pathsep.join([str(BESIDE), *inherited]))
        yield found
