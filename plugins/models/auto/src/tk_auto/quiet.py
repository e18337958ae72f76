"""Loading and saving through transformers without its progress bars and notices on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Errors only, and no progress bars, while it is entered; both are as before afterwards.

    What it imports by the way (DeepSpeed, where that is installed) prints to the standard error, if it does.
    """
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
