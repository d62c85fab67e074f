"""What a run takes before it starts: memory, tokens, FLOPs and hours, from formulas."""
