"""The papers' settings of the attacks, by name."""

from typing import Any


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
        "LLC": single,
        "RLLC": randomised,
        "ILLC": iterative,
        "TMIFGSM": iterative,
    }


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "table7_mnist": _table_vii(0.3, 0.05),
    # Not in the paper: its MNIST settings on the built-in digits.
    "digits": _table_vii(0.3, 0.05),
    "table7_cifar10": _table_vii(0.1, 0.01),
    "table8": {
        "FGSM": {"eps": 0.3},
        "PGD": {"eps": 0.3, "eps_iter": 0.04, "nb_iter": 100},
    },
}
"""Settings by preset and attack: the attractor paper's Tables VII and VIII.

UMIFGSM and TMIFGSM run cleverhans' momentum method, which normalises each gradient
where DEEPSEC's does not.
"""
