"""The luring paper's own numbers, to print beside the measured ones.

Reference:
    Bernhard, Moellic, Dutertre, Luring of Adversarial Perturbations, 2020.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

_RESOURCE = "luring_paper.json"


def paper_cell(
    dataset: str, attack: str, eps: float, variant: str
) -> dict[str, float | None]:
    """Looks up what the paper reports for one attack (Tables 2 to 4).

    Args:
        dataset: `"mnist"`, `"svhn_cropped"` or `"cifar10"`.
        attack: The attack's name, e.g. `"MIM-TI"`.
        eps: The radius, pixels in [0, 1].
        variant: The source model: `"stack"`, `"auto"`, `"ce"` or `"luring"`.

    Returns:
        Fractions in [0, 1] by `ac_mop`, `ac_m` and `dac`; `None` where the number is
        not legible. Empty where the paper has no such cell. The caller may change it.
    """
    rows = _tables()["attacks"].get(dataset, {}).get(attack, {})
    return dict(rows.get(f"{eps:g}", {}).get(variant, {}))


def paper_clean(dataset: str, variant: str) -> dict[str, float | None]:
    """Looks up the paper's accuracy on clean test images (Table 1).

    Args:
        dataset: `"mnist"`, `"svhn_cropped"` or `"cifar10"`.
        variant: `"target"` for M, or the source model as in `paper_cell`.

    Returns:
        Fractions in [0, 1] by `test` and `agree`; empty where the paper has no such
        model. The caller may change it.
    """
    return dict(_tables()["clean"].get(dataset, {}).get(variant, {}))


@functools.cache
def _tables() -> dict[str, Any]:
    package = importlib.resources.files("keras_traps.evaluation")
    tables: dict[str, Any] = json.loads((package / _RESOURCE).read_text("utf-8"))
    return tables
