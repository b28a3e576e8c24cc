"""What the console script and the recipes do with their flags."""
