"""A model family with an architecture that transformers does not know, and its chat format."""
