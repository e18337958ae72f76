"""How long work between steps is shown: lines in a file, a bar that goes when it is done on a terminal."""

import io
import subprocess
import sys

import pytest

from tk.cli.progress import Progress
from tk.contracts import TrainPlan

PLAN = TrainPlan(8, 8, 80, 8.0, {}, 4, 2, 1, 1, 10, 10)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_a_file_gets_a_line_now_and_then(every):
    stream = io.StringIO()
    shown = Progress(stream, every)
    shown.start(PLAN, {}, 0)
    for done in (0, 2, 4, 6):
        shown.progress("evaluation", done, 6)
    lines = [line.split("  ")[0] for line in stream.getvalue().splitlines()[1:]]
    assert lines == ([] if every else ["evaluation 2/6", "evaluation 4/6"])


def test_a_terminal_gets_a_bar_while_it_lasts():
    stream = Terminal()
    shown = Progress(stream)
    shown.start(PLAN, {}, 0)
    shown.progress("evaluation", 0, 6)
    assert [task.description for task in shown._bar.tasks] == ["train", "evaluation"]
    shown.progress("evaluation", 6, 6)
    assert [task.description for task in shown._bar.tasks] == ["train"]
    shown.finish(None)


def test_a_warning_is_a_line():
    code = (
        "import sys, warnings\n"
        "from tk import cli\n"
        "from tk.errors import TkWarning\n"
        "sys.argv = ['tk', '--version']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "warnings.warn('all is slow', TkWarning)\n"
        "warnings.warn('another')\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert told.splitlines()[0] == "warning: all is slow"
    assert "UserWarning: another" in told
