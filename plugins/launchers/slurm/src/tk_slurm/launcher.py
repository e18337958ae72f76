"""The launcher `slurm`: a batch script whose processes find one another by torchrun's environment."""

from __future__ import annotations

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

    def launch(self, command: Sequence[str], folder: Path) -> str:
        if shutil.which("sbatch") is None:
            raise TkError("launcher slurm: there is no sbatch on this machine: submit from one that has Slurm.")
        script = write_file(folder / "launch" / "job.sh", self.shown(command, folder))
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
            "output": folder / "launch" / "%j.out",
            "signal": f"TERM@{GRACE}",
            "open-mode": "append",
        }
        lines = [f"#SBATCH --{name}={value}" for name, value in asked.items() if value]
        lines += [f"#SBATCH {line}" for line in options.sbatch]
        port = str(options.port) if options.port else "$((20000 + SLURM_JOB_ID % 20000))"
        ranks = (
            "RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS "
            f"LOCAL_WORLD_SIZE={options.processes_per_node} exec "
        )
        return "\n".join(
            [
                "#!/bin/bash",
                *lines,
                "set -euo pipefail",
                *options.setup,
                'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
                f"export MASTER_PORT={port}",
                f"srun --kill-on-bad-exit=1 bash -c {shlex.quote(ranks + shlex.join(command))}",
                "",
            ]
        )
