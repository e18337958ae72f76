"""The Poly-1 loss."""
