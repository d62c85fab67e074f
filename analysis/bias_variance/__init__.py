"""Figures of the studies of exact bias and variance: one module a study, ``figure(rows)``."""
