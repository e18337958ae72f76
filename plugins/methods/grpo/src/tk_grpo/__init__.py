"""Online reinforcement learning on groups of answers."""
