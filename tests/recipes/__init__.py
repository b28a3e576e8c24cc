"""Facts about the recipes."""
