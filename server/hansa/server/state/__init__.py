"""The server's memory: nothing that a restart may not lose lives anywhere else."""
