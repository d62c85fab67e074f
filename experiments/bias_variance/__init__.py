"""Exact bias and variance of the estimators: the recipes of the studies in upge.theory.studies."""
