"""Reward files written for other frameworks, read as they are."""
