"""Measurements of speed: one module a question, one table each."""
