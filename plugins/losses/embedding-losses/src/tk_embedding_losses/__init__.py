"""Losses on the vectors of texts."""
