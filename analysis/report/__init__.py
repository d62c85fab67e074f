"""One page of everything that is committed: ``python -m analysis.report``."""
