"""A guard against losses that blow up."""
