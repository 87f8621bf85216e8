"""One subpackage for each warehouse: planning, streaming and writing there, and little else."""
