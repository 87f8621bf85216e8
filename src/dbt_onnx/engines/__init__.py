"""One package for each warehouse: how to plan, stream and write there, and little else."""
