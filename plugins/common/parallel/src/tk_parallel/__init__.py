"""Processes of a run: groups, sums, ragged gathers, and what strategies on torch.distributed share."""
