"""The conversations of the chatterbot-corpus wheel as a data set."""
