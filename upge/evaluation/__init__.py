"""Evaluation: sampled responses to whole suites, and what is read off them."""
