"""The tracker wandb for tk: a run's figures in Weights & Biases."""
