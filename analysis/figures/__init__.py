"""Figures: their numbers from runs, and one list of how each is drawn."""
