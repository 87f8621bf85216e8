"""One module per warehouse: how to plan, stream and write there, and little else."""
