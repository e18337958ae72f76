"""Shapes of rows, and the open kind `formats` that they are."""
