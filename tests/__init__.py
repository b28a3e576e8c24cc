"""Facts about keras_traps, its ops and its recipes."""
