"""Options of the launcher `slurm`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class SlurmOptions:
    """The job. What stands in no option of its own goes into `sbatch`."""

    nodes: Annotated[int, doc("Machines.", ge=1)] = 1
    processes_per_node: Annotated[int, doc("Processes on each machine; with GPUs, one for each.", ge=1)] = 1
    gpus_per_node: Annotated[int, doc("GPUs of each machine; 0: none is asked for.", ge=0)] = 0
    cpus_per_process: Annotated[int, doc("Cores of a process; 0: as the cluster gives them.", ge=0)] = 0
    time: Annotated[str, doc("Longest time (hours:minutes:seconds).")] = ""
    partition: Annotated[str, doc("Partition.")] = ""
    account: Annotated[str, doc("Account.")] = ""
    sbatch: Annotated[list[str], doc("Further options of sbatch (--mem=100G …).")] = field(default_factory=list)
    setup: Annotated[list[str], doc("Shell lines before the processes start (module load …).")] = field(
        default_factory=list
    )
    port: Annotated[int, doc("Port at which the processes meet; 0: one that follows from the job.", ge=0, le=65535)] = 0
