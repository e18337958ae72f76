"""The strategy `ddp`: every process holds the whole model."""
