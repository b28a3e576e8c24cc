"""Evaluation of luring: attacks on M∘P, and what they make of M."""
