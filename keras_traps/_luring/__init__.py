"""The sub-commands of `recipes/luring.py`, one per module."""
