"""Tables of accuracy, methods by suites, with comparisons and costs: Tables 2, 3, 5 and 6."""
