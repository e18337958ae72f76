"""Run as each of two ranks by test_parallel_machines.py: the second is killed, and the first waits for it."""

import os
import signal
import sys

import torch

from tk.errors import TkError
from tk_parallel import processes
from tk_parallel.machines import lost_explained

world = processes.join(30)
processes.gather(torch.zeros(1))
if world.rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
try:
    with lost_explained(world):
        processes.gather(torch.zeros(1))
except TkError as error:
    print(error)
    sys.exit(7)
