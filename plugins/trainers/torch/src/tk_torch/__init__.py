"""The trainer `torch`: one straight training loop."""
