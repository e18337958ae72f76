"""The optimizers `adamw`, `sgd` and `adafactor`."""
