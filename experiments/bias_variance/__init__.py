"""Exact bias and variance of the estimators: studies and their recipes."""
