"""Facts about keras_traps.attacks."""
