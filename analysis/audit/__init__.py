"""The audit of SFT→RL: do two faults of SFT baselines, or equal compute, reverse HPT's order?

SFT and SFT→GRPO with and without the faults that arXiv 2604.23747 found in this literature's
baselines, beside methods that learn from demonstrations and rollouts at once: at equal steps, and
at equal compute.
"""
