"""The reward format for tk: completions that match a regular expression."""
