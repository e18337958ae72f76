"""Checks of plugins that need torch, and tiny checkpoints to run them on."""
