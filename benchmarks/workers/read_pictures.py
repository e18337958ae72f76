"""Goes once through the batches of a run on pictures: read_pictures.py CONFIG STEP. Prints what it found as JSON.

STEP: seconds that each batch keeps a device busy, which leaves the CPU alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from tk.contracts import World
from tk.setup import given_from
from tk.setup import plan as plan_of
from tk_torch.assemble import assemble


def memory() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(config: str, step: str) -> None:
    loader = assemble(plan_of(given_from(config, {})), World(0, 1, "cpu"), device="meta").loader
    waited, sizes, rows = 0.0, [], 0
    begun = asked = time.perf_counter()
    for number, window in enumerate(loader.windows(), 1):
        if number > 1:  # the first has nothing to be made beside
            waited += time.perf_counter() - asked
        rows += sum(batch.rows for batch in window.batches)
        time.sleep(float(step))
        sizes.append(memory())
        asked = time.perf_counter()
    print(json.dumps({"seconds": time.perf_counter() - begun, "waited": waited, "memory": sizes, "rows": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
