"""A pipeline of two processes: a trainer of its own, and the strategy that cuts the model."""
