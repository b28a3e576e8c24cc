"""Facts about keras_traps.models."""
