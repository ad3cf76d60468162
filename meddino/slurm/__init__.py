"""Training as jobs of SLURM."""
