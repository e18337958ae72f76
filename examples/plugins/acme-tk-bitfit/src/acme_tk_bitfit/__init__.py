"""BitFit: only biases are trained."""
