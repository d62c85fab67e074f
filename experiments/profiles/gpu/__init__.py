"""The profile for one GPU, planned: what its runs take, as a table."""
