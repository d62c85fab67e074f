"""The ground: configurations, errors, files, optional packages, provenance."""
