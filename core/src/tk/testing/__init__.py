"""The conformance kit: what a plugin package checks itself with. Needs pytest and nothing that a plugin brings.

`-p tk.testing.plugin` adds tests of every component that a package declares (specs, options, listing, contracts).
The functions here check behaviour, kind by kind: a package calls them in its own tests with what it built. What needs
torch is in the distribution tk-plugin-conformance.
"""

from tk.testing.callbacks import RecordedRun, check_callback
from tk.testing.figures import check_metric, check_schedule, check_tracker
from tk.testing.package import Package, check_component, check_listing_is_light, check_loads, check_options
from tk.testing.rewards import check_reward, reward_batches
from tk.testing.rows import check_dataset
from tk.testing.templates import check_template, template_samples

__all__ = [
    "Package",
    "RecordedRun",
    "check_callback",
    "check_component",
    "check_dataset",
    "check_listing_is_light",
    "check_loads",
    "check_metric",
    "check_options",
    "check_reward",
    "check_schedule",
    "check_template",
    "check_tracker",
    "reward_batches",
    "template_samples",
]
