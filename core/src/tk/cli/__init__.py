"""The command line: `tk`."""

from __future__ import annotations

import os
import sys
import warnings


def main() -> None:
    """Entry point: runs the app; a user's mistake ends in one message and exit code 2, a failure in 1."""
    from tk.cli.app import app
    from tk.errors import StuckError, TkError, TkWarning

    plain = warnings.formatwarning

    def formatted(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, TkWarning):
            return f"warning: {message}\n"
        return plain(message, category, filename, lineno, line)

    warnings.formatwarning = formatted
    try:
        app(prog_name="tk")
    except TkError as error:
        if "--debug" in sys.argv:
            raise
        print(f"Error: {error}", file=sys.stderr, flush=True)
        if isinstance(error, StuckError):  # a thread of the plugin's would keep the process from ending
            sys.stdout.flush()
            os._exit(error.exit_code)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
