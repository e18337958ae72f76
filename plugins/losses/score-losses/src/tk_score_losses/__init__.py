"""Losses on the scores of sequences."""
