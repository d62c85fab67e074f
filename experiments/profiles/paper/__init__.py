"""The paper's own scale: recipes for three models, plans, scripts (see experiments/PAPER.md)."""
