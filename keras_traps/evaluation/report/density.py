"""The curves behind the plots: ROC curves and kernel density estimates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import gaussian_kde

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

_MOST_SAMPLES = 5_000
_POINTS = 400


def roc_curve(
    clean: npt.NDArray[np.floating], attacked: npt.NDArray[np.floating]
) -> Curve | None:
    """Computes the ROC curve of a score that is higher for attacked images.

    Args:
        clean: `(images,)`, scores of clean images; NaN is left out.
        attacked: `(images,)`, scores of attacked images; NaN is left out.

    Returns:
        False-positive and detection rates, both `(points,)`, rising from (0, 0) to
        (1, 1), or `None` where either has no scores.
    """
    clean = np.sort(clean[~np.isnan(clean)])
    attacked = np.sort(attacked[~np.isnan(attacked)])
    if not clean.size or not attacked.size:
        return None
    cuts = np.unique(np.concatenate([clean, attacked]))[::-1]
    rates = [
        1 - np.searchsorted(scores, cuts, side="left") / scores.size
        for scores in (clean, attacked)
    ]
    x, y = (np.concatenate([[0.0], rate]) for rate in rates)
    return x, y


def density(sample: npt.NDArray[np.floating]) -> Curve | None:
    """Estimates a density with Gaussian kernels, scaled to a peak of 1.

    Args:
        sample: `(values,)`; what is not finite is left out, and of a large sample
            evenly spaced values are taken.

    Returns:
        Places and densities, both `(points,)`, or `None` where there are fewer than
        two values or they do not vary, so that no density can be estimated.
    """
    values = np.sort(sample[np.isfinite(sample)].astype(np.float64))
    if values.size > _MOST_SAMPLES:
        # Evenly spaced ranks keep the distribution, and the extremes.
        ranks = np.linspace(0, values.size - 1, _MOST_SAMPLES).round().astype(np.int64)
        values = values[ranks]
    if values.size < 2:
        return None
    spread = values[-1] - values[0]
    if spread <= 1e-9 * max(1e-12, float(np.abs(values).max())):
        return None
    try:
        estimate = gaussian_kde(values)
    except np.linalg.LinAlgError:
        return None
    margin = 3 * float(np.sqrt(estimate.covariance[0, 0]))
    x = np.linspace(values[0] - margin, values[-1] + margin, _POINTS)
    y = estimate(x)
    return x, y / y.max()
