"""Bias and variance on a trained network, where nothing can be enumerated: estimates, intervals."""
