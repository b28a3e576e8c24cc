"""Attacks models and says what came of it."""
