"""The luring paper's settings of the attacks, by name."""

from typing import Any

_STEP = 0.01

LURING_EPS: dict[str, tuple[float, ...]] = {
    "luring_mnist": (0.3, 0.4, 0.5),
    "luring_svhn": (0.03, 0.06, 0.08),
    "luring_cifar10": (0.02, 0.03, 0.04),
}
"""The radii of the paper's tables and figures, by preset.

A preset has the first one; `preset("luring_mnist", eps=0.5)` has another.
"""

_PROBABILITIES = [{"prob": tenths / 10} for tenths in range(1, 11)]
_KERNELS = [
    {"kernlen": kernlen, "nsig": nsig}
    for kernlen, nsig in ((1, 1), (3, 3), (5, 3), (10, 3), (15, 3))
]

LURING_SWEEPS: dict[str, list[dict[str, Any]]] = {
    "DIM": _PROBABILITIES,
    "MIM-TI": _KERNELS,
    "DIM-TI": _KERNELS,
}
"""The settings that the paper tries for an attack, of which it reports the best.

`[dataclasses.replace(attack, **change) for change in LURING_SWEEPS[attack.name]]` are
the attacks to take the best of.
"""


def _luring(
    eps: float, radius: float, nb_iter: int, prob: float
) -> dict[str, dict[str, Any]]:
    steps = {"eps": eps, "eps_iter": _STEP, "nb_iter": nb_iter}
    # Only the figures show PGD and MIML2: with 1000 steps on every data set.
    figures = {**steps, "nb_iter": 1000}
    kernel = {"kernlen": 5, "nsig": 3}
    return {
        "FGSM": {"eps": eps},
        "PGD": figures,
        "MIM": steps,
        "MIML2": {**figures, "radius": radius},
        "DIM": {**steps, "prob": 0.5},
        "MIM-TI": {**steps, **kernel},
        "DIM-TI": {**steps, **kernel, "prob": prob},
    }


def _on_cpu(
    settings: dict[str, dict[str, Any]], nb_iter: int, eps_iter: float
) -> dict[str, dict[str, Any]]:
    shorter = {
        attack: {**values, "nb_iter": nb_iter} if "nb_iter" in values else values
        for attack, values in settings.items()
    }
    # No attack stops early: an image at the border of M∘P says nothing about M.
    return {**shorter, "MIML2": {**shorter["MIML2"], "eps_iter": eps_iter}}


_MNIST = _luring(0.3, radius=30.0, nb_iter=1000, prob=1.0)
_SVHN = _luring(0.03, radius=1.0, nb_iter=500, prob=1.0)
_CIFAR10 = _luring(0.02, radius=1.0, nb_iter=100, prob=0.6)

LURING: dict[str, dict[str, dict[str, Any]]] = {
    "luring_mnist": _MNIST,
    "luring_svhn": _SVHN,
    "luring_cifar10": _CIFAR10,
    "luring_mnist_cpu": _on_cpu(_MNIST, nb_iter=100, eps_iter=0.1),
    "luring_svhn_cpu": _on_cpu(_SVHN, nb_iter=50, eps_iter=0.02),
    "luring_cifar10_cpu": _on_cpu(_CIFAR10, nb_iter=20, eps_iter=0.05),
}
"""Settings by preset and attack: the luring paper's figures and Tables 2 to 4.

DIM's probability and the kernel of the others are one of `LURING_SWEEPS`. The paper's
figures have MIM with 1000 steps on SVHN too.
"""

LURING_NOTES: dict[str, str] = {
    "luring_mnist_cpu": (
        "100 steps where the paper makes 1000; MIML2's steps are 0.1 long, not 0.01, "
        "so that they reach as far."
    ),
    "luring_svhn_cpu": (
        "50 steps where the paper makes 500 or 1000; MIML2's steps are 0.02 long, not "
        "0.01, so that they reach its radius."
    ),
    "luring_cifar10_cpu": (
        "20 steps where the paper makes 100 or 1000; MIML2's steps are 0.05 long, not "
        "0.01, so that they reach its radius."
    ),
}
"""What a preset for a small machine does otherwise than the paper."""
