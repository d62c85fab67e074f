"""Tables of accuracy, methods by suites, with all that belongs beneath: Tables 2, 3, 5 and 6."""
