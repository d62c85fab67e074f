"""What to run: recipes and the programs that run them."""
