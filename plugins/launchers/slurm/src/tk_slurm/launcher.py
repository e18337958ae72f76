"""The launcher `slurm`: a batch script whose processes find one another by torchrun's environment."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tk.errors import TkError
from tk.files import write_file
from tk_slurm.options import SlurmOptions

GRACE = 120
"""Seconds before its time is over that a job is sent SIGTERM, at which a run saves and stops."""


class SlurmLauncher:
    """Implements tk.contracts.Launcher. The job's environment is the one that it was submitted from."""

    here, waits = False, False

    def __init__(self, options: SlurmOptions) -> None:
        self._options = options
        self.processes = options.nodes * options.processes_per_node

    def launch(self, command: Sequence[str], folder: Path, own: Path) -> str:
        if shutil.which("sbatch") is None:
            raise TkError("launcher slurm: there is no sbatch on this machine: submit from one that has Slurm.")
        script = write_file(own / "job.sh", self.shown(command, folder))
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise TkError(f"launcher slurm: sbatch refused {script}: {done.stderr.strip()}")
        job = done.stdout.strip().partition(";")[0]
        return f"job {job} (squeue -j {job}); its output: {folder / 'launch'}"

    def shown(self, command: Sequence[str], folder: Path) -> str:
        """The script."""
        options = self._options
        asked = {
            "job-name": folder.name,
            "nodes": options.nodes,
            "ntasks-per-node": options.processes_per_node,
            "gpus-per-node": options.gpus_per_node,
            "cpus-per-task": options.cpus_per_process,
            "time": options.time,
            "partition": options.partition,
            "account": options.account,
            "output": f"{folder / 'launch'}".replace("%", "%%") + "/%j.out",
            "signal": f"TERM@{GRACE}",
            "open-mode": "append",
        }
        lines = [f"#SBATCH --{name}={_quoted(str(value))}" for name, value in asked.items() if value]
        lines += [f"#SBATCH {line}" for line in options.sbatch]
        port = str(options.port) if options.port else "$((20000 + SLURM_JOB_ID % 12000))"
        count, cores = options.processes_per_node, options.cpus_per_process
        threads = cores or f"$((${{SLURM_CPUS_ON_NODE:-1}} > {count} ? SLURM_CPUS_ON_NODE / {count} : 1))"
        step = [
            "srun",
            "--kill-on-bad-exit=1",
            *([f"--cpus-per-task={cores}"] if cores else []),
        ]  # which it is not told of
        ranks = f"RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE={count} exec "
        return "\n".join(
            [
                "#!/bin/bash",
                *lines,
                "set -eo pipefail",
                *options.setup,
                "set -u",  # what activates an environment asks for variables that are not set
                'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
                f"export MASTER_PORT={port}",
                f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{threads}}}",
                f"{' '.join(step)} bash -c {shlex.quote(ranks + shlex.join(command))}",
                "",
            ]
        )


def _quoted(value: str) -> str:
    """A value as sbatch reads it in a script: in words, up to a #, and with a backslash before what is to stand as it is."""
    return re.sub(r"([\s#'\"\\])", r"\\\1", value)
