"""What chat templates share: guarded tokenisation, loss weights by offsets, the text of messages."""
