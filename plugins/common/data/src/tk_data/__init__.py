"""Rows to samples to examples to windows of batches."""
