"""Examples of the estimator inside other trainers, on the package's own base and problems."""
