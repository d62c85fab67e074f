"""Training: one loop for every algorithm of the registry."""
