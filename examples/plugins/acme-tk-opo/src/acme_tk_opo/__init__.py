"""The advantage of OPO: rewards above the baseline of least variance."""
