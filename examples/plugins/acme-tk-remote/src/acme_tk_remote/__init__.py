"""A reward that a server gives."""
