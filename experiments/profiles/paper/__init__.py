"""The paper's own scale: recipes for three models, and scripts (see experiments/PAPER.md)."""
