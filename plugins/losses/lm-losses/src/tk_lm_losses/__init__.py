"""Losses on next-token prediction."""
