"""Run as each of two ranks by test_torch_parts.py: the second is killed where no step is computed."""

import os
import signal
import sys

from tk.errors import TkError
from tk_ddp.options import DdpOptions
from tk_ddp.strategy import Ddp
from tk_torch.course import joined
from tk_torch.ranks import on_rank_0

strategy = Ddp(DdpOptions())
try:
    with joined(strategy) as world:
        on_rank_0(strategy, world, lambda: "begun")
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        on_rank_0(strategy, world, lambda: "drawn")
except TkError as error:
    print(error)
    sys.exit(7)
