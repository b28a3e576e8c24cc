"""The attractor paper's own numbers, to print beside the measured ones.

Reference:
    Zhang, Chang and Lee, Detection and recovery of adversarial attacks with
    injected attractors, 2020.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

_RESOURCE = "attractors_paper.json"


def paper_row(attack: str, dataset: str) -> dict[str, float | None]:
    """Looks up what the paper reports for one attack (Tables I and III to VI).

    Detection, recovery and `overall_asr` are the paper's at a false-positive rate of
    5 %; `overall_asr_fpr0.5` is at 0.5 %.

    Args:
        attack: The paper's short name of the attack, e.g. `"FGSM"`.
        dataset: `"mnist"` or `"cifar10"`.

    Returns:
        Fractions in [0, 1] by `asr_original`, `asr_attractors`, `detection`,
        `recovery`, `overall_asr`, `overall_asr_fpr0.5` and `asr_integrated`, where
        Table III has it `auc`, and where Table VI has them the mean L2 distances
        `mean_l2_original` and `mean_l2_integrated` in pixels of [0, 1]; `None`
        where the paper says that no adversarial image was found. Empty where the
        paper has no such attack or data set. The caller may change the dict.
    """
    row: dict[str, float | None] = _tables()["attacks"].get(attack, {}).get(dataset, {})
    return dict(row)


def paper_clean(dataset: str) -> tuple[float | None, float | None]:
    """Looks up the paper's accuracy on clean test images (Table II).

    Args:
        dataset: `"mnist"` or `"cifar10"`.

    Returns:
        Fractions in [0, 1] for the undefended classifier C and for the trapped model
        M; `(None, None)` where the paper does not have the data set.
    """
    row = _tables()["clean"].get(dataset, {})
    return row.get("original"), row.get("attractors")


@functools.cache
def _tables() -> dict[str, Any]:
    package = importlib.resources.files("keras_traps.evaluation")
    tables: dict[str, Any] = json.loads((package / _RESOURCE).read_text("utf-8"))
    return tables
