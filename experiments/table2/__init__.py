"""Table 2: HPT beside SFT, GRPO, SFT→GRPO, LUFFY and SRFT, at the scale of the profile."""
