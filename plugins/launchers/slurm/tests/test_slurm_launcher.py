"""The batch script: what it asks for, and that its processes meet where Slurm's commands do what they are said to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tk.errors import TkError
from tk_slurm.launcher import SlurmLauncher
from tk_slurm.options import SlurmOptions

SRUN = """#!/bin/bash
# Slurm's srun, as far as the script leans on it: the command once for each task, with its places
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) "${@:2}" &
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


def test_its_processes_know_their_places(cluster: Path, tmp_path: Path) -> None:
    text = f"import json, os, sys; json.dump([os.environ[n] for n in sys.argv[1:]], open(f'{tmp_path}/{{os.getpid()}}', 'w'))"
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GREETING"]
    options = SlurmOptions(nodes=2, processes_per_node=2, setup=["export GREETING='good day'"])
    script = tmp_path / "job.sh"
    script.write_text(SlurmLauncher(options).shown([sys.executable, "-c", text, *names], tmp_path))
    job = {"SLURM_JOB_ID": "41234", "SLURM_JOB_NODELIST": "here[1-2]", "SLURM_NTASKS": "4"}
    subprocess.run(["bash", script], env=os.environ | job, check=True)
    found = sorted(json.loads(path.read_text()) for path in tmp_path.iterdir() if path.name.isdecimal())
    assert found == [[str(r), str(r % 2), "4", "2", "127.0.0.1", "21234", "good day"] for r in range(4)]


def test_it_is_submitted_from_the_runs_folder(cluster: Path, tmp_path: Path) -> None:
    told = SlurmLauncher(SlurmOptions()).launch(["tk"], tmp_path / "run")
    script = tmp_path / "run/launch/job.sh"
    assert (cluster / "submitted").read_text().split() == ["--parsable", str(script)]
    assert told.startswith("job 17 (squeue -j 17)")
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_without_slurm_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TkError, match="no sbatch on this machine"):
        SlurmLauncher(SlurmOptions()).launch(["tk"], tmp_path / "run")
    assert not (tmp_path / "run").exists()
