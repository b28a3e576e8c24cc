"""Facts about keras_traps.attractors."""
