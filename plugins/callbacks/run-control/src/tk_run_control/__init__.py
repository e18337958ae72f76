"""Callbacks for tk that act on evaluations: stop, keep the best, lower the learning rate."""
