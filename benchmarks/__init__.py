"""Measurements of time and memory; run as `python -m benchmarks.<name>`."""
