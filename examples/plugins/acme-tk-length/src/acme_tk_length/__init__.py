"""A reward for completions that keep to a budget."""
