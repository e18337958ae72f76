"""The tuner that trains a model's own weights."""
