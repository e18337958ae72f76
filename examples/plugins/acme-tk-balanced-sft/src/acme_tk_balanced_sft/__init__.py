"""Supervised fine-tuning whose objective has two normalisers."""
