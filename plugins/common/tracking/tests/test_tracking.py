"""The process that has a library: what is told to it, and what becomes of a run when it is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from tk.errors import TkError, TkWarning
from tk.testing.figures import check_tracker
from tk_tracking.flat import flat
from tk_tracking.options import TrackingOptions
from tk_tracking.testing import CONFIG, PLAN, result, resumed, run
from tk_tracking.tracker import Library, Tracking

SINK = '''
import json, os, sys, time
from pathlib import Path

class Sink:
    """A library that writes what it is told into a file."""

    def start(self, settings):
        print("HELLO from the library")
        self.file = Path(os.environ["SAID"]).open("a")
        self.say(start=settings, pid=os.getpid(), absent=os.environ.get("NOT_FOR_IT"))
        return {"id": settings["id"] or f"run-{os.getpid()}", "url": ""}

    def log(self, kind, step, figures):
        if figures.get("loss") == 2.25 and os.environ.get("HOW"):
            exec(os.environ["HOW"])
        self.say(log=[kind, step, figures])

    def finish(self, state, step, figures):
        self.say(finish=[state, step, figures])

    def say(self, **words):
        self.file.write(json.dumps(words) + "\\n")
        self.file.flush()
'''


@pytest.fixture
def said(tmp_path: Path) -> Path:
    return tmp_path / "said.jsonl"


@pytest.fixture
def build(tmp_path: Path, said: Path):
    (tmp_path / "sink.py").write_text(SINK)

    def made(how: str = "", sink: str = "sink.py", **options):
        environment = {"SAID": str(said), "HOW": how, "NOT_FOR_IT": None}
        library = Library("far", tmp_path / sink, environment, mend="Mend it so.")
        return Tracking(TrackingOptions(**options), tmp_path / "my run" / "far", library)

    return made


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_is_told_in_its_order(build, said, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("NOT_FOR_IT", "secret")
    run(build(tags=["a"], every=2)).finish(result(tmp_path))
    first, *figures, last = lines(said)
    assert first["start"]["config"] == {
        "model.name": "m",
        "optim.lr": 2e-4,
        "optim.betas": "[0.9, 0.95]",
        "train.seed": 7,
    }
    assert first["start"]["name"] == "my run"
    assert first["start"]["tags"] == ["a"]
    assert first["start"]["plan"]["tokens"] == 1234
    assert first["start"]["output"] == str(tmp_path / "my run")
    assert first["absent"] is None
    assert first["pid"] != os.getpid()
    assert [entry["log"][:2] for entry in figures] == [["eval", 0], ["train", 2], ["train", 4]]
    assert last["finish"] == ["finished", 4, {"loss": 1.5}]
    assert "HELLO" in (tmp_path / "my run/far/worker.log").read_text()
    assert capfd.readouterr() == ("", "")


def test_a_resumed_run_goes_on_under_its_id(build, said, tmp_path):
    resumed(build, tmp_path)
    starts = [entry["start"]["id"] for entry in lines(said) if "start" in entry]
    ends = [entry["finish"][0] for entry in lines(said) if "finish" in entry]
    assert starts[0] == ""
    assert starts[1] == json.loads((tmp_path / "my run/far/run.json").read_text())["id"]
    assert starts[1].startswith("run-")
    assert ends == ["stopped", "finished"]


def test_a_failed_run_is_closed_as_failed(build, said):
    run(build()).finish(None)
    assert lines(said)[-1]["finish"] == ["failed", 4, {}]


def test_it_keeps_the_contract_of_trackers(build, tmp_path):
    assert check_tracker(lambda folder: build(), tmp_path / "my run") != []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sink": "broken.py"}, r"trackers.far: ModuleNotFoundError: No module named 'not_there'. Mend it so."),
        ({"python": "/no/such/python"}, "trackers.far.python: /no/such/python: No such file or directory."),
        ({"sink": "slow.py", "start_seconds": 1}, "trackers.far: no answer within 1 seconds. Mend it so."),
        ({"sink": "dead.py"}, r"trackers.far: its process has ended \(exit code 3\). Mend it so."),
    ],
)
def test_a_library_that_does_not_begin_is_an_error_with_its_mend(options, message, build, tmp_path):
    (tmp_path / "broken.py").write_text("import not_there")
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)")
    (tmp_path / "dead.py").write_text("import os\nos._exit(3)")
    with pytest.raises(TkError, match=message):
        build(**options).start(PLAN, CONFIG, 0)


def test_figures_that_it_refuses_are_a_warning_once_and_the_run_goes_on(build, said, tmp_path):
    def whole() -> None:
        tracker = run(build("raise ValueError('no such number')"))
        tracker.log("train", 5, {"loss": 2.25})
        tracker.finish(result(tmp_path))

    with pytest.warns(TkWarning, match=r"trackers.far: figures were not sent: ValueError: no such number") as caught:
        whole()
    assert len(caught) == 1
    assert lines(said)[-1]["finish"] == ["finished", 5, {"loss": 1.5}]


def test_a_library_that_dies_does_not_end_the_run_and_is_told(build, tmp_path):
    def whole() -> None:
        tracker = run(build("os._exit(7)"))
        time.sleep(1)
        tracker.log("train", 5, {"loss": 1.0})
        tracker.finish(result(tmp_path))

    with pytest.warns(TkWarning) as caught:
        whole()
    told = [str(one.message) for one in caught]
    assert told[0] == "trackers.far: its process has ended (exit code 7): no more figures are sent"
    assert "The figures that it lacks are in log.jsonl" in told[-1]


def test_a_library_that_hangs_holds_up_nothing_but_the_end(build, tmp_path):
    tracker = build("time.sleep(100)", finish_seconds=1)
    began = time.monotonic()
    run(tracker)
    for step in range(5000):
        tracker.log("train", step, {"loss": 1.0})
    assert time.monotonic() - began < 10
    with pytest.warns(TkWarning, match="no answer within 1 seconds"):
        tracker.finish(result(tmp_path))


def test_a_run_that_is_killed_is_closed_as_failed_and_leaves_no_process(build, said, tmp_path):
    code = (
        "import sys, os, signal\nfrom pathlib import Path\n"
        "from tk_tracking.options import TrackingOptions\nfrom tk_tracking.tracker import Library, Tracking\n"
        "from tk_tracking.testing import run\n"
        "library = Library('far', Path(sys.argv[1]), {'SAID': sys.argv[2]})\n"
        "run(Tracking(TrackingOptions(), Path(sys.argv[3]), library))\n"
        "import time; time.sleep(1)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "sink.py"), str(said), str(tmp_path / "run" / "far")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    end = time.monotonic() + 20
    while time.monotonic() < end and "finish" not in lines(said)[-1]:
        time.sleep(0.1)
    assert lines(said)[-1]["finish"] == ["failed", 4, {}]
    while time.monotonic() < end and Path(f"/proc/{lines(said)[0]['pid']}").exists():
        time.sleep(0.1)
    assert not Path(f"/proc/{lines(said)[0]['pid']}").exists()


def test_nothing_is_started_before_the_run_begins(build, said, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build().finish(None)
    assert not said.exists()
    assert not (tmp_path / "my run").exists()


def test_a_config_becomes_one_level():
    assert flat({"a": {"b": {"c": 1}}, "d": None, "e": [1, {"f": 2}], "g": False}) == {
        "a.b.c": 1,
        "e": '[1, {"f": 2}]',
        "g": False,
    }
