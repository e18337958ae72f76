"""The tracker tensorboard for tk: a run's figures as event files."""
