"""The papers' settings of the attacks, by name."""

from typing import Any

from keras_traps.attacks.presets_luring import LURING, LURING_NOTES

_BPDA = {"eps": 0.3, "eps_iter": 0.04, "nb_iter": 100}
_SPSA = {"eps": 0.3, "nb_iter": 500, "learning_rate": 0.1}
_FEWER_SAMPLES = {"nb_iter": 100, "spsa_samples": 32}


def _table_vii(
    eps: float, eps_iter: float, margin: dict[str, Any]
) -> dict[str, dict[str, Any]]:
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
        "OM": {"noise_count": 20, "binary_search_steps": 4, **margin},
        # Not in the table: Table VIII's settings in this table's ball.
        "BPDA": {**_BPDA, "eps": eps},
        "SPSA": {**_SPSA, "eps": eps},
        "LLC": single,
        "RLLC": randomised,
        "ILLC": iterative,
        "TMIFGSM": iterative,
        "JSMA": {"theta": 1.0, "gamma": 0.1},
        "CW2": {
            "learning_rate": 0.02,
            "binary_search_steps": 10,
            "max_iterations": 10_000,
            "initial_const": 0.001,
        },
        "EAD": {
            "learning_rate": 0.02,
            "binary_search_steps": 10,
            "max_iterations": 10_000,
            "initial_const": 0.001,
            "beta": 0.001,
        },
    }


def _on_cpu(
    settings: dict[str, dict[str, Any]], learning_rate: float
) -> dict[str, dict[str, Any]]:
    # A larger first c and larger steps make up for fewer of them.
    fewer: dict[str, dict[str, Any]] = {
        "OM": {"max_iterations": 40},
        "SPSA": _FEWER_SAMPLES,
        "CW2": {
            "learning_rate": learning_rate,
            "binary_search_steps": 5,
            "max_iterations": 150,
            "initial_const": 0.1,
        },
        "EAD": {
            "learning_rate": learning_rate,
            "binary_search_steps": 5,
            "max_iterations": 100,
            "initial_const": 0.1,
        },
    }
    return {
        attack: {**given, **fewer.get(attack, {})} for attack, given in settings.items()
    }


# OptMargin's settings where the table leaves them open are those of DEEPSEC's code.
_TABLE_VII_MNIST = _table_vii(
    0.3, 0.05, {"noise_mag": 0.3, "learning_rate": 0.2, "initial_const": 0.02}
)
_TABLE_VII_CIFAR10 = _table_vii(
    0.1, 0.01, {"noise_mag": 8 / 255, "learning_rate": 0.02, "initial_const": 1.0}
)

_TABLE_VIII: dict[str, dict[str, Any]] = {
    "FGSM": {"eps": 0.3},
    "PGD": {"eps": 0.3, "eps_iter": 0.04, "nb_iter": 100},
    "BPDA": _BPDA,
    "SPSA": _SPSA,
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "table7_mnist": _TABLE_VII_MNIST,
    "table7_mnist_cpu": _on_cpu(_TABLE_VII_MNIST, 0.1),
    # Not in the paper: its MNIST settings on the built-in digits.
    "digits": _TABLE_VII_MNIST,
    "table7_cifar10": _TABLE_VII_CIFAR10,
    "table7_cifar10_cpu": _on_cpu(_TABLE_VII_CIFAR10, 0.02),
    "table8": _TABLE_VIII,
    "table8_cpu": {
        **_TABLE_VIII,
        "PGD": {**_TABLE_VIII["PGD"], "abort_early": True},
        "BPDA": {**_BPDA, "abort_early": True},
        "SPSA": {**_SPSA, **_FEWER_SAMPLES},
    },
    **LURING,
}
"""Settings by preset and attack: the attractor paper's Tables VII and VIII, and the
luring paper's.

UMIFGSM and TMIFGSM run cleverhans' momentum method, which normalises each gradient
where DEEPSEC's does not.
"""

_TABLE_VII_ON_CPU = (
    "The dear attacks make fewer steps. SPSA: 100 for 500, each of 32 samples for 128. "
    "CW2 and EAD: 5 searches of 150 and 100 steps for 10 of 10,000, from c = 0.1 for "
    "0.001. OM: 40 steps a search for 10,000. All others are as in the paper."
)

PRESET_NOTES: dict[str, str] = {
    "table7_mnist_cpu": _TABLE_VII_ON_CPU,
    "table7_cifar10_cpu": _TABLE_VII_ON_CPU,
    "table8_cpu": (
        "PGD and BPDA stop where they have succeeded. SPSA makes 100 steps for 500, "
        "each of 32 samples for 128."
    ),
    **LURING_NOTES,
}
"""What a preset for a small machine does otherwise than the paper."""
