"""A run as a batch job of Slurm."""
