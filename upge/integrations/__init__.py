"""The estimator inside trainers that people already run: one module a trainer, nothing patched."""
