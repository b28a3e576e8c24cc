"""The papers' settings of the attacks, by name."""

from typing import Any

Settings = dict[str, dict[str, Any]]

LURING_EPS: dict[str, tuple[float, ...]] = {
    "luring_mnist": (0.3, 0.4, 0.5),
    "luring_svhn": (0.03, 0.06, 0.08),
    "luring_cifar10": (0.02, 0.03, 0.04),
}
"""The radii of the paper's tables and figures, by preset.

A preset has the first one; `preset("luring_mnist", eps=0.5)` has another.
"""

_KERNELS = [
    {"kernlen": kernlen, "nsig": nsig}
    for kernlen, nsig in ((1, 1), (3, 3), (5, 3), (10, 3), (15, 3))
]

LURING_SWEEPS: dict[str, list[dict[str, Any]]] = {
    "DIM": [{"prob": tenths / 10} for tenths in range(1, 11)],
    "MIM-TI": _KERNELS,
    "DIM-TI": _KERNELS,
}
"""The settings that the paper tries for an attack, of which it reports the best.

`[dataclasses.replace(attack, **change) for change in LURING_SWEEPS[attack.name]]` are
the attacks to take the best of.
"""


def _luring(eps: float, radius: float, nb_iter: int, prob: float) -> Settings:
    steps = {"eps": eps, "eps_iter": 0.01, "nb_iter": nb_iter}
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


def _luring_on_cpu(name: str, nb_iter: int, eps_iter: float) -> Settings:
    shorter = {
        attack: {**values, "nb_iter": nb_iter} if "nb_iter" in values else values
        for attack, values in _LURING[name].items()
    }
    # No attack stops early: an image at the border of M∘P says nothing about M. The L2
    # steps are longer, so that they reach as far.
    return {**shorter, "MIML2": {**shorter["MIML2"], "eps_iter": eps_iter}}


_LURING = {
    "luring_mnist": _luring(0.3, radius=30.0, nb_iter=1000, prob=1.0),
    "luring_svhn": _luring(0.03, radius=1.0, nb_iter=500, prob=1.0),
    "luring_cifar10": _luring(0.02, radius=1.0, nb_iter=100, prob=0.6),
}
LURING: dict[str, Settings] = {
    **_LURING,
    "luring_mnist_cpu": _luring_on_cpu("luring_mnist", nb_iter=100, eps_iter=0.1),
    "luring_svhn_cpu": _luring_on_cpu("luring_svhn", nb_iter=50, eps_iter=0.02),
    "luring_cifar10_cpu": _luring_on_cpu("luring_cifar10", nb_iter=20, eps_iter=0.05),
}
"""Settings by preset and attack: the luring paper's figures and Tables 2 to 4.

DIM's probability and the kernel of the others are one of `LURING_SWEEPS`.
"""


def _gradient_free(eps: float, block_size: int) -> Settings:
    ball = {"eps": eps}
    noise = {"noise_kind": "sign", "nb_restarts": 500, "block_size": block_size}
    return {
        "Noise": {**ball, **noise},
        "NES": ball,
        "Square": ball,
        "RayS": ball,
        "HopSkipJump": {"norm": "Linf"},
    }


GRADIENT_FREE: dict[str, Settings] = {
    # The blocks that fool DEEPSEC's classifiers most.
    "gradient_free": _gradient_free(8 / 255, block_size=1),
    "gradient_free_mnist": _gradient_free(0.3, block_size=4),
}
"""Settings of the attacks that only ask, each with 500 queries."""


def _adaptive(eps: float) -> Settings:
    steps = {"eps": eps, "nb_iter": 200}
    return {
        "SelectivePGD": steps,
        # Orthogonal to the lead no step lowers a score that is high where it is small.
        "OrthogonalPGD": {**steps, "confidence": 0.5},
        "LagrangianPGD": steps,
    }


ADAPTIVE: dict[str, Settings] = {
    "adaptive": _adaptive(8 / 255),
    "adaptive_mnist": _adaptive(0.3),
}
"""Settings of the attacks on a model together with its detector."""


def _autoattack(eps: float, norm: str = "Linf") -> Settings:
    ball = {"eps": eps, "norm": norm}
    return {
        "APGD": ball,
        "APGD-T": ball,
        "FAB": ball,
        "Square": {**ball, "nb_queries": 5000, "resc_schedule": False},
    }


AUTOATTACK: dict[str, Settings] = {
    "autoattack": _autoattack(8 / 255),
    "autoattack_mnist": _autoattack(0.3),
    "autoattack_l2": _autoattack(0.5, "L2"),
}
"""Settings of AutoAttack's standard version, each attack for what still stands."""


def leaderboard(eps: float) -> Settings:
    """Returns what every contender meets in a ball: attacks of all knowledge."""
    free, adaptive = _gradient_free(eps, block_size=4), _adaptive(eps)
    return {
        "Noise": free["Noise"],
        "RayS": free["RayS"],
        "Square": free["Square"],
        "SPSA-Q": {"eps": eps},
        "PGD": {"eps": eps, "eps_iter": eps / 10, "nb_iter": 40},
        **{name: _autoattack(eps)[name] for name in ("APGD", "APGD-T", "FAB")},
        **adaptive,
    }


LEADERBOARD: dict[str, Settings] = {"leaderboard": leaderboard(8 / 255)}
"""Settings of what every contender meets: attacks of all levels of knowledge."""

_BPDA = {"eps": 0.3, "eps_iter": 0.04, "nb_iter": 100}
_SPSA = {"eps": 0.3, "nb_iter": 500, "learning_rate": 0.1, "spsa_samples": 128}
_FEWER_SAMPLES = {"nb_iter": 100, "spsa_samples": 32}


def _table_vii(
    eps: float, eps_iter: float, universal: dict[str, Any], margin: dict[str, Any]
) -> Settings:
    # The table gives no number of steps for ILLC and TMIFGSM; theirs are the others'.
    iterative = {"eps": eps, "eps_iter": eps_iter, "nb_iter": 15}
    single = {"eps": eps}
    randomised = {"eps": eps, "alpha": eps / 2}
    search = {
        "learning_rate": 0.02,
        "binary_search_steps": 10,
        "max_iterations": 10_000,
        "initial_const": 0.001,
    }
    return {
        "FGSM": single,
        "RFGSM": randomised,
        "BIM": iterative,
        "PGD": iterative,
        "UMIFGSM": iterative,
        "UAP": {**single, **universal, "nb_at_once": 1},
        "DeepFool": {"max_iter": 50, "overshoot": 0.02},
        "OM": {
            "noise_count": 20,
            "binary_search_steps": 4,
            "max_iterations": 10_000,
            **margin,
        },
        # Not in the table: Table VIII's settings in this table's ball.
        "BPDA": {**_BPDA, "eps": eps},
        "SPSA": {**_SPSA, "eps": eps},
        "LLC": single,
        "RLLC": randomised,
        "ILLC": iterative,
        "TMIFGSM": iterative,
        "JSMA": {"theta": 1.0, "gamma": 0.1},
        "BLB": {
            "binary_search_steps": 5,
            "max_iterations": 1000,
            "initial_const": 0.01,
        },
        "CW2": search,
        "EAD": {**search, "beta": 0.001},
    }


def _on_cpu(
    settings: Settings,
    learning_rate: float,
    searches: int,
    steps: tuple[int, int],
) -> Settings:
    # A larger first c and larger steps make up for fewer of them.
    longer = {"learning_rate": learning_rate, "initial_const": 0.1}
    few = {**longer, "binary_search_steps": searches}
    fewer: Settings = {
        # Of 4, 16 and 64 images at once, 4 come furthest in the same time.
        "UAP": {"nb_at_once": 4},
        "OM": {
            "noise_count": 10,
            "binary_search_steps": 3,
            "max_iterations": 30,
            "initial_const": 1.0,
        },
        "SPSA": _FEWER_SAMPLES,
        "BLB": {"max_iterations": 30, "initial_const": 0.1},
        "CW2": {**few, "max_iterations": steps[0]},
        "EAD": {**few, "max_iterations": steps[1]},
    }
    return {
        attack: {**given, **fewer.get(attack, {})} for attack, given in settings.items()
    }


# OptMargin's settings where the table leaves them open are those of DEEPSEC's code.
_TABLE_VII_MNIST = _table_vii(
    0.3,
    0.05,
    {"fooling_rate": 0.3, "nb_images": 6000},
    {"noise_mag": 0.3, "learning_rate": 0.2, "initial_const": 0.02},
)
_TABLE_VII_CIFAR10 = _table_vii(
    0.1,
    0.01,
    # The table has 30 % here too, and DEEPSEC's instructions 90 %. Both end sooner than
    # where column (h)'s 93.1 % of test images are fooled.
    {"fooling_rate": 0.95, "nb_images": 5000},
    {"noise_mag": 8 / 255, "learning_rate": 0.02, "initial_const": 1.0},
)

_TABLE_VIII: Settings = {
    "FGSM": {"eps": 0.3},
    "PGD": {"eps": 0.3, "eps_iter": 0.04, "nb_iter": 100},
    "BPDA": _BPDA,
    "SPSA": _SPSA,
}

_TABLE_VII_MNIST_CPU = _on_cpu(_TABLE_VII_MNIST, 0.1, 5, (150, 100))

PRESETS: dict[str, Settings] = {
    "table7_mnist": _TABLE_VII_MNIST,
    "table7_mnist_cpu": _TABLE_VII_MNIST_CPU,
    # Not in the paper: its MNIST settings on the built-in digits, UAP in larger bites.
    "digits": {
        **_TABLE_VII_MNIST_CPU,
        "UAP": {**_TABLE_VII_MNIST["UAP"], "nb_at_once": 16},
    },
    "table7_cifar10": _TABLE_VII_CIFAR10,
    "table7_cifar10_cpu": _on_cpu(_TABLE_VII_CIFAR10, 0.02, 4, (100, 80)),
    "table8": _TABLE_VIII,
    "table8_cpu": {
        **_TABLE_VIII,
        "PGD": {**_TABLE_VIII["PGD"], "abort_early": True},
        "BPDA": {**_BPDA, "abort_early": True},
        "SPSA": {**_SPSA, **_FEWER_SAMPLES},
    },
    **LURING,
    **GRADIENT_FREE,
    **ADAPTIVE,
    **AUTOATTACK,
    **LEADERBOARD,
}
"""Settings by preset and attack: the attractor paper's Tables VII and VIII, the luring
paper's, AutoAttack's, and those of no paper's table for attacks that follow no
gradient, or that of a detector too.

UMIFGSM and TMIFGSM are the momentum method of its authors and of cleverhans, which
normalises each gradient where DEEPSEC's does not.
"""


def _differences(name: str, whole_name: str) -> str:
    whole, told = PRESETS[whole_name], []
    for attack, settings in PRESETS[name].items():
        changes = [
            f"{key}={value} for {whole[attack].get(key, 'the default')}"
            for key, value in settings.items()
            if value != whole[attack].get(key)
        ]
        if changes:
            told.append(f"{attack} has {', '.join(changes)}.")
    return " ".join([*told, "All else is as in the paper."])


PRESET_NOTES: dict[str, str] = {
    "digits": _differences("digits", "table7_mnist"),
    **{
        name: _differences(name, name.removesuffix("_cpu"))
        for name in PRESETS
        if name.endswith("_cpu")
    },
}
"""What a preset for a small machine does otherwise than the paper."""
