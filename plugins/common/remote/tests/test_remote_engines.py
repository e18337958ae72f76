"""An engine in an interpreter of its own: what it needs, what it gives, how it dies, and that nothing of it is left."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tk.contracts import Engine, LoadedModel, Request, Sampling
from tk.engines import generate, generate_each, stream
from tk.errors import RequestError, TkError, UsageError
from tk_auto.family import AutoFamily
from tk_conformance.tiny import tiny_checkpoint
from tk_remote.engine import Remote
from tk_remote.links import LostError, Worker
from tk_remote.options import WorkerOptions
from tk_remote.start import opener

CHATTER = Path(__file__).with_name("chatter.py")
PYTHON = f"{sys.base_prefix}/bin/python3"  # an interpreter without this environment's packages


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return AutoFamily().load(str(tiny_checkpoint(tmp_path_factory.mktemp("m") / "llama", vocab=300)), device="meta")


def remote(
    model: LoadedModel, folder: Path, *, name: str = "Chatter", restarts: int = 1, python: str = PYTHON, **values: Any
) -> Remote:
    options = WorkerOptions(python=python, restarts=restarts, env={"OF_THE_WORKER": "yes"} if python else {})
    values = {"greeting": "hello", **values}
    open_ = opener("chatter", CHATTER, name, options, values, folder)
    return Remote("chatter", open_, model=model, folder=folder, restarts=restarts)


@pytest.fixture(params=["Chatter", "Later"])
def engine(request: pytest.FixtureRequest, model: LoadedModel, tmp_path: Path) -> Iterator[Remote]:
    made = remote(model, tmp_path, name=request.param)
    yield made
    made.close()


def worker_of(engine: Remote) -> Worker:
    link = engine._link
    assert isinstance(link, Worker)
    return link


def ended(pid: int, seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.05)
    return False


def asked(*ids: int, **sampling: Any) -> Request:
    return Request(ids, Sampling(**{"max_tokens": 4, **sampling}), stop_ids=(3,))


@pytest.mark.parametrize("name", ["Chatter", "Later"])
@pytest.mark.parametrize("python", [PYTHON, ""])
def test_answers_come_from_a_bare_interpreter_and_from_here_alike(
    python: str, name: str, model: LoadedModel, tmp_path: Path
) -> None:
    engine = remote(model, tmp_path, name=name, python=python)
    try:
        assert isinstance(engine, Engine)
        found = generate(engine, [asked(9, 20, logprobs=True), asked(5), asked(50, n=2)])
        assert [[c.ids for c in each] for each in found] == [
            [(19, 18, 17, 16)],
            [(4, 3)],
            [(49, 48, 47, 46), (49, 48, 47, 46)],
        ]
        assert [each[0].finish_reason for each in found] == ["length", "stop", "length"]
        assert found[0][0].logps == (-19.0, -18.0, -17.0, -16.0)
        assert found[1][0].logps is None
        assert found[1][0].text == model.tokenizer.decode([4])
    finally:
        engine.close()


def test_the_worker_has_nothing_of_this_environment(engine: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    about = worker_of(engine).about
    assert about == {"greeting": "hello", "packages": []}
    assert worker_of(engine).call("environment", name="OF_THE_WORKER") == "yes"
    assert worker_of(engine).call("environment", name="PYTHONPATH") == ""


def test_nothing_listens(engine: Remote) -> None:
    pid = worker_of(engine).pid
    sockets = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    inodes = {name[8:-1] for name in sockets if name.startswith("socket:")}
    for table in ("tcp", "tcp6"):
        lines = Path(f"/proc/{pid}/net/{table}")
        listed = [line.split()[9] for line in lines.read_text().splitlines()[1:]] if lines.exists() else []
        assert not inodes.intersection(listed)
    assert socket.AF_UNIX in {worker_of(engine)._connection.family}


@pytest.mark.parametrize("name", ["Chatter", "Later"])
def test_a_text_ends_an_answer_and_the_worker_stops(name: str, model: LoadedModel, tmp_path: Path) -> None:
    engine = remote(model, tmp_path, name=name, pause=0.02)
    try:
        free = generate(engine, [asked(64, max_tokens=40)])[0][0]
        word = free.text[len(free.text) // 2 :][:3]
        cut = generate(engine, [asked(64, max_tokens=100_000, stop=(word,))])[0][0]
        assert cut.text == free.text[: free.text.index(word)]
        assert (cut.finish_reason, len(cut.ids) < 100) == ("stop", True)
        begun = time.monotonic()
        assert generate(engine, [asked(5)])[0][0].finish_reason == "stop"
        assert time.monotonic() - begun < 5  # the one before is not on its way any longer
    finally:
        engine.close()


def test_pieces_are_the_whole(engine: Remote) -> None:
    deltas = list(stream(engine, asked(100, max_tokens=20)))
    assert len(deltas) > 5
    assert "".join(delta.text for delta in deltas) == generate(engine, [asked(100, max_tokens=20)])[0][0].text


@pytest.mark.timeout(60)
def test_both_may_say_much_at_once(model: LoadedModel, tmp_path: Path) -> None:
    """Neither waits for the other to read what it writes."""
    engine = remote(model, tmp_path, talks=50_000)
    try:
        long = [100] * 400
        found = generate(engine, [asked(*long, 100 + i, max_tokens=9) for i in range(190)])
        assert [each[0].ids[0] for each in found] == [99 + i for i in range(190)]
    finally:
        engine.close()


def test_what_is_refused_is_the_requests_own_fault(engine: Remote) -> None:
    with pytest.raises(UsageError, match="chatter: 99 is not for me"):
        generate(engine, [asked(99)])
    with pytest.raises(TkError, match="A prompt is empty"):
        engine.add(asked())
    assert generate(engine, [asked(5)])[0][0].ids == (4, 3)


def test_it_has_the_positions_that_the_engine_tells_of(model: LoadedModel, tmp_path: Path) -> None:
    engine = remote(model, tmp_path, room=6)
    try:
        *others, long = generate_each(engine, [asked(5), asked(*[40] * 4), asked(*[7] * 6)])
        assert [len(each[0].ids) for each in others if not isinstance(each, RequestError)] == [2, 2]
        assert str(long) == "A prompt of 6 tokens fills the engine's 6 positions: shorten it."
    finally:
        engine.close()


def test_a_failure_of_the_engine_is_told_with_its_log(engine: Remote) -> None:
    with pytest.raises(TkError, match=r"RuntimeError: on purpose \(see .*\.log\)"):
        worker_of(engine).call("fail")
    assert generate(engine, [asked(5)])[0][0].ids == (4, 3)


def test_what_it_refuses_at_the_start_is_told(model: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_model_len: too long"):
        remote(model, tmp_path, refuse="max_model_len: too long")


@pytest.mark.parametrize(("python", "message"), [("/no/such/python", "is no program"), ("true", "worker ended")])
def test_interpreters_that_are_none_are_told(python: str, message: str, model: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(TkError, match=message):
        remote(model, tmp_path, python=python)


def test_what_is_no_package_here_names_the_mend(model: LoadedModel, tmp_path: Path) -> None:
    file = tmp_path / "inside.py"
    file.write_text("import no_such_engine\n")
    with pytest.raises(TkError, match="--engine.python PATH"):
        opener("nosuch", file, "Inside", WorkerOptions(), {}, tmp_path)()


def test_one_that_takes_too_long_to_begin_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "slow.py"
    file.write_text(
        "import time\nclass Slow:\n    def __init__(self):\n        print('loading', flush=True)\n        time.sleep(60)\n"
    )
    options = WorkerOptions(python=PYTHON, start_timeout=1.0)
    with pytest.raises(TkError, match=r"did not begin in its time(?s:.*)loading"):
        opener("slow", file, "Slow", options, {}, tmp_path)()


def test_a_killed_worker_fails_what_is_on_its_way_and_is_begun_anew(model: LoadedModel, tmp_path: Path) -> None:
    engine = remote(model, tmp_path, pause=0.05)
    try:
        engine.update([("a", torch.zeros(2))], 7)
        first = worker_of(engine).pid
        keys = [engine.add(asked(100, max_tokens=1000)), engine.add(asked(90, max_tokens=1000, n=2))]
        os.kill(first, signal.SIGKILL)
        lost = []
        while len(lost) < 3:
            lost += [delta for delta in engine.step() if delta.error]
        assert {delta.key for delta in lost} == set(keys)
        assert all(isinstance(delta.error, LostError) and "SIGKILL" in str(delta.error) for delta in lost)
        assert generate(engine, [asked(5)])[0][0].ids == (4, 3)
        assert worker_of(engine).pid != first
        assert engine.digest == "7:['a']"  # and it has the weights that were given last
        os.kill(worker_of(engine).pid, signal.SIGKILL)
        with pytest.raises(LostError):
            generate(engine, [asked(5)])
        with pytest.raises(LostError, match="lost too often"):
            generate(engine, [asked(5)])
    finally:
        engine.close()


def test_a_worker_that_died_between_requests_is_begun_anew_by_whatever_comes_next(
    model: LoadedModel, tmp_path: Path
) -> None:
    engine = remote(model, tmp_path, restarts=2)
    try:
        for version in (1, 2):
            os.kill(worker_of(engine).pid, signal.SIGKILL)
            engine.sleep()
            assert engine.update([("a", torch.zeros(2))], version) == f"{version}:['a']"
        assert generate(engine, [asked(5)])[0][0].policy_version == 2
    finally:
        engine.close()


@pytest.mark.parametrize(("name", "error"), [("bad", "it is half read"), ("deadly", "exit code 4")])
def test_weights_that_cannot_be_read_leave_those_before_them(
    name: str, error: str, model: LoadedModel, tmp_path: Path
) -> None:
    engine = remote(model, tmp_path, restarts=2)
    try:
        engine.update([("a", torch.zeros(2))], 1)
        with pytest.raises(TkError, match=error):
            engine.update([(name, torch.zeros(2))], 1)  # by the same number, too
        assert [path.name.rpartition("-")[2] for path in tmp_path.glob("weights-*")] == ["1"]
        assert generate(engine, [asked(5)])[0][0].policy_version == 1
        assert worker_of(engine).call("digest") == engine.digest == "1:['a']"
    finally:
        engine.close()


def test_weights_that_cannot_be_written_leave_nothing(engine: Remote, tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.zeros(2)
        raise TkError("no more")

    with pytest.raises(TkError, match="no more"):
        engine.update(broken(), 1)
    assert not list(tmp_path.glob("weights-*"))
    assert generate(engine, [asked(5)])[0][0].policy_version == 0


def test_one_that_serves_other_weights_than_before_does_not_answer(model: LoadedModel, tmp_path: Path) -> None:
    engine = remote(model, tmp_path, restarts=2, forgets=True)
    try:
        engine.update([("a", torch.zeros(2))], 1)
        os.kill(worker_of(engine).pid, signal.SIGKILL)
        with pytest.raises(LostError):
            generate(engine, [asked(5)])
        with pytest.raises(TkError, match="serves other weights than before"):
            generate(engine, [asked(5)])
    finally:
        engine.close()


def test_one_that_dies_in_a_step_tells_its_last_words(engine: Remote) -> None:
    with pytest.raises(LostError, match=r"exit code 3(?s:.*)66 is the end of me"):
        generate(engine, [asked(66)])


def test_updates_are_read_and_only_the_last_lies_there(engine: Remote, tmp_path: Path) -> None:
    engine.update([("b", torch.ones(3)), ("a", torch.zeros(2))], 1)
    assert engine.digest == "1:['a', 'b']"
    engine.update([("c", torch.ones(3))], 2)
    assert engine.digest == "2:['c']"
    assert generate(engine, [asked(5)])[0][0].policy_version == 2
    assert len(list(tmp_path.glob("weights-*"))) == 1
    engine.close()
    assert not list(tmp_path.glob("weights-*"))


def test_closing_ends_it_and_its_log_is_kept(model: LoadedModel, tmp_path: Path) -> None:
    engine = remote(model, tmp_path)
    pid = worker_of(engine).pid
    engine.close()
    assert ended(pid)
    (log,) = tmp_path.glob("chatter-*.log")
    assert "chatter begins" in log.read_text()


def test_no_orphan_is_left_where_its_owner_is_killed(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from tk_remote.options import WorkerOptions
from tk_remote.start import opener
made = opener("chatter", Path({str(CHATTER)!r}), "Chatter", WorkerOptions(python={PYTHON!r}), {{"greeting": "x"}}, Path({str(tmp_path)!r}))()
print(made.pid, flush=True)
time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    assert ended(pid)
