"""The SmolLM2 model family."""
