"""Facts about the benchmarks."""
