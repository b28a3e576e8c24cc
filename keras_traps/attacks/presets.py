"""The papers' settings of the attacks, by name."""

from typing import Any

from keras_traps.attacks.presets_luring import LURING, LURING_NOTES

_BPDA = {"eps": 0.3, "eps_iter": 0.04, "nb_iter": 100}
_SPSA = {"eps": 0.3, "nb_iter": 500, "learning_rate": 0.1}


def _table_vii(eps: float, eps_iter: float) -> dict[str, dict[str, Any]]:
    # The table gives no number of steps for ILLC and TMIFGSM; theirs are the others'.
    iterative = {"eps": eps, "eps_iter": eps_iter, "nb_iter": 15}
    single = {"eps": eps}
    randomised = {"eps": eps, "alpha": eps / 2}
    return {
        "FGSM": single,
        "RFGSM": randomised,
        "BIM": iterative,
        "PGD": iterative,
        "UMIFGSM": iterative,
        "DeepFool": {"max_iter": 50, "overshoot": 0.02},
        # Not in the table: Table VIII's settings in this table's ball.
        "BPDA": {**_BPDA, "eps": eps},
        "SPSA": {**_SPSA, "eps": eps},
        "LLC": single,
        "RLLC": randomised,
        "ILLC": iterative,
        "TMIFGSM": iterative,
        "JSMA": {"theta": 1.0, "gamma": 0.1},
    }


def _on_cpu(settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    stopping = {
        attack: {**settings[attack], "abort_early": True}
        for attack in ("BIM", "PGD", "BPDA", "ILLC")
    }
    fewer = {**settings["SPSA"], "nb_iter": 100, "spsa_samples": 32}
    return {**settings, **stopping, "SPSA": fewer}


_TABLE_VII_MNIST = _table_vii(0.3, 0.05)
_TABLE_VII_CIFAR10 = _table_vii(0.1, 0.01)

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "table7_mnist": _TABLE_VII_MNIST,
    "table7_mnist_cpu": _on_cpu(_TABLE_VII_MNIST),
    # Not in the paper: its MNIST settings on the built-in digits.
    "digits": _table_vii(0.3, 0.05),
    "table7_cifar10": _TABLE_VII_CIFAR10,
    "table7_cifar10_cpu": _on_cpu(_TABLE_VII_CIFAR10),
    "table8": {
        "FGSM": {"eps": 0.3},
        "PGD": {"eps": 0.3, "eps_iter": 0.04, "nb_iter": 100},
        "BPDA": _BPDA,
        "SPSA": _SPSA,
    },
    **LURING,
}
"""Settings by preset and attack: the attractor paper's Tables VII and VIII, and the
luring paper's.

UMIFGSM and TMIFGSM run cleverhans' momentum method, which normalises each gradient
where DEEPSEC's does not.
"""

_TABLE_VII_ON_CPU = (
    "BIM, PGD, BPDA and ILLC stop where they have succeeded. SPSA makes 100 steps "
    "where the paper makes 500, each from 32 samples where cleverhans takes 128."
)

PRESET_NOTES: dict[str, str] = {
    "table7_mnist_cpu": _TABLE_VII_ON_CPU,
    "table7_cifar10_cpu": _TABLE_VII_ON_CPU,
    **LURING_NOTES,
}
"""What a preset for a small machine does otherwise than the paper."""
