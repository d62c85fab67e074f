"""The base models: recipes, and what trains, measures and keeps them."""
