"""Facts about keras_traps.ops."""
