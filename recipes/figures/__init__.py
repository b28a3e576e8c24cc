"""What draws the papers' figures, the ablation and the toy: see `recipes/figure.py`."""
