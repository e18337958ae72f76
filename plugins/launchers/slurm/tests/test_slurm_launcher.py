"""The batch script: what it asks for, and that its processes meet where Slurm's commands do what they are said to do."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tk.errors import TkError
from tk_slurm.launcher import SlurmLauncher
from tk_slurm.options import SlurmOptions

SRUN = """#!/bin/bash
# Slurm's srun, as far as the script leans on it: the command once for each task, with its places
while [[ $1 == --* ]]; do
  [[ $1 == --cpus-per-task=* ]] && export SLURM_CPUS_PER_TASK="${1#*=}"
  shift
done
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) "$@" &
done
wait
"""
SCONTROL = '#!/bin/bash\n[ "$*" = "show hostnames here[1-2]" ] && echo 127.0.0.1 && echo other\n'
SBATCH = '#!/bin/bash\necho "$*" > "$(dirname "$0")/submitted"\necho "17;cluster"\n'


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with Slurm's commands at the front of the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "sbatch": SBATCH}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_the_script_asks_for_what_the_options_say(tmp_path: Path) -> None:
    options = SlurmOptions(
        nodes=2, processes_per_node=8, gpus_per_node=8, time="12:00:00", partition="a100", sbatch=["--mem=100G"]
    )
    lines = SlurmLauncher(options).shown(["tk", "train"], tmp_path / "my run").splitlines()
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert asked >= {
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--time=12:00:00",
        "--partition=a100",
        "--mem=100G",
        "--signal=TERM@120",
    }
    assert not any(line.startswith(("--account", "--cpus")) for line in asked)
    assert lines[0] == "#!/bin/bash"


def test_names_with_spaces_and_signs_arrive_whole(tmp_path: Path) -> None:
    """sbatch reads words up to a #, as a shell does, and replaces %x in names of files."""
    folder = tmp_path / "run #2 of 'a' 50%"
    lines = SlurmLauncher(SlurmOptions(account="our group")).shown(["tk"], folder).splitlines()
    words = [shlex.split(line.removeprefix("#SBATCH "), comments=True) for line in lines if line.startswith("#SBATCH")]
    assert ["--job-name=run #2 of 'a' 50%"] in words
    assert ["--account=our group"] in words
    assert [f"--output={tmp_path}/run #2 of 'a' 50%%/launch/%j.out"] in words


def _told(tmp_path: Path, options: SlurmOptions, names: list[str], **variables: str) -> list[list[str]]:
    """Variables that each process of a job finds."""
    text = (
        "import json, os, sys; "
        f"json.dump([os.environ.get(n) for n in sys.argv[1:]], open(f'{tmp_path}/{{os.getpid()}}', 'w'))"
    )
    script = tmp_path / "job.sh"
    script.write_text(SlurmLauncher(options).shown([sys.executable, "-c", text, *names], tmp_path))
    count = options.nodes * options.processes_per_node
    job = {"SLURM_JOB_ID": "41234", "SLURM_JOB_NODELIST": "here[1-2]", "SLURM_NTASKS": str(count), **variables}
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run(["bash", script], env=own | job, check=True)
    return sorted(json.loads(path.read_text()) for path in tmp_path.iterdir() if path.name.isdecimal())


def test_its_processes_know_their_places(cluster: Path, tmp_path: Path) -> None:
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GREETING"]
    options = SlurmOptions(nodes=2, processes_per_node=2, setup=["export GREETING='good day'"])
    found = _told(tmp_path, options, names)
    assert found == [[str(r), str(r % 2), "4", "2", "127.0.0.1", "25234", "good day"] for r in range(4)]


@pytest.mark.parametrize(
    ("cores", "variables", "told"),
    [
        (3, {"SLURM_CPUS_ON_NODE": "32"}, ["3", "3"]),
        (3, {"OMP_NUM_THREADS": "5"}, ["3", "5"]),
        (0, {"SLURM_CPUS_ON_NODE": "32"}, [None, "16"]),
        (0, {"SLURM_CPUS_ON_NODE": "1"}, [None, "1"]),
        (0, {}, [None, "1"]),
    ],
)
def test_its_processes_have_the_cores_that_were_asked_for(
    cluster: Path, tmp_path: Path, cores: int, variables: dict[str, str], told: list[str | None]
) -> None:
    options = SlurmOptions(processes_per_node=2, cpus_per_process=cores)
    found = _told(tmp_path, options, ["SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"], **variables)
    assert found == [told, told]


def test_what_activates_an_environment_may_ask_for_what_is_not_set(cluster: Path, tmp_path: Path) -> None:
    options = SlurmOptions(setup=['export SEEN="was $NEVER_SET_BEFORE"'])
    assert _told(tmp_path, options, ["SEEN"]) == [["was "]]


def test_it_is_submitted_from_the_runs_folder(cluster: Path, tmp_path: Path) -> None:
    told = SlurmLauncher(SlurmOptions()).launch(["tk"], tmp_path / "run", tmp_path / "own")
    script = tmp_path / "own/job.sh"
    assert (cluster / "submitted").read_text().split() == ["--parsable", str(script)]
    assert told.startswith("job 17 (squeue -j 17)")
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_without_slurm_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TkError, match="no sbatch on this machine"):
        SlurmLauncher(SlurmOptions()).launch(["tk"], tmp_path / "run", tmp_path / "own")
    assert not list(tmp_path.iterdir())
