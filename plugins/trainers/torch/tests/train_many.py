"""Run as each rank: trains once for each config in the JSON file given."""

import json
import sys
import warnings
from pathlib import Path

import tk

warnings.simplefilter("error", UserWarning)
for config in json.loads(Path(sys.argv[1]).read_text()):
    result = tk.train(config)
    assert result.steps == config["train"]["steps"]
print("trained")
