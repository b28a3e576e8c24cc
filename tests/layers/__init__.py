"""Facts about keras_traps.layers."""
