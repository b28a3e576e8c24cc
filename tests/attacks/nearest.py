"""The smallest changes that move linear models, found by other means."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import LinearConstraint, minimize

Array = npt.NDArray[np.floating]


def distance_to_plane(images: Array, kernel: Array, label: int, target: int) -> Array:
    """Returns how far images are from where two classes are alike; no pixel clips."""
    normal = kernel[:, label].astype(np.float64) - kernel[:, target]
    lead = images.reshape(len(images), -1).astype(np.float64) @ normal
    return lead / np.linalg.norm(normal)


def nearest_answer(image: Array, kernel: Array, target: int) -> Array:
    """Returns the nearest image in [0, 1] whose answer is `target`, by a QP solver."""
    clean = image.reshape(-1).astype(np.float64)
    others = np.delete(np.arange(kernel.shape[1]), target)
    leads = (kernel[:, [target]] - kernel[:, others]).T.astype(np.float64)
    found = minimize(
        lambda pixels: ((pixels - clean) ** 2).sum(),
        clean,
        jac=lambda pixels: 2 * (pixels - clean),
        method="SLSQP",
        bounds=[(0, 1)] * clean.size,
        constraints=LinearConstraint(leads, 0, np.inf),
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success
    return found.x.reshape(image.shape)
