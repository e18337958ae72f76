"""The tracker trackio for tk: a run's figures in Trackio."""
