"""Many samples of each trained policy, from which pass@k is estimated (paper, Figure 2)."""
