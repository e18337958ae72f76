"""Rollouts: what methods share that train on what the model generates."""
