"""Verification of the unified view: published losses; symbolic and numeric proofs of every row."""
