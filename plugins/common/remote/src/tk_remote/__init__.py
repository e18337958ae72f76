"""Engines that run elsewhere."""
