"""Exports a trained model as a plain transformers checkpoint."""
