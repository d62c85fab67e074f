"""Exact computation on policies small enough to enumerate: objectives, means, covariances."""
