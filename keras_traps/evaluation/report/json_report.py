"""An evaluation as strict JSON, for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_traps.evaluation.results import Evaluation, Example
from keras_traps.rates import Rate

FORMAT_VERSION = 1
"""Raised when a reader of the file would have to change."""


def to_json(evaluation: Evaluation) -> str:
    """Writes an evaluation as JSON, without the arrays of its samples.

    Rates become `{"count", "total", "value", "interval"}`; the keys that are nominal
    false-positive rates become strings, e.g. `"0.05"`. A number that is not finite
    becomes `null`, since strict JSON has none.

    Args:
        evaluation: What was found.

    Returns:
        Indented JSON that ends with a newline.
    """
    fields = {
        field.name: plain(getattr(evaluation, field.name))
        for field in dataclasses.fields(evaluation)
        if field.name != "samples"
    }
    fields["examples"] = [_example(e) for e in evaluation.samples.examples]
    document = {"format_version": FORMAT_VERSION, **fields}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _example(example: Example) -> dict[str, Any]:
    return {
        field.name: plain(getattr(example, field.name))
        for field in dataclasses.fields(example)
        if field.name not in ("clean", "adversarial")
    }


def plain(value: Any) -> Any:
    """Turns results into what strict JSON can hold.

    Args:
        value: Rates, dataclasses, mappings, sequences, arrays, numbers and texts.

    Returns:
        The same as dicts, lists, numbers, texts and `None`.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Rate):
        return {
            "count": int(value.count),
            "total": int(value.total),
            "value": plain(value.value),
            "interval": plain(value.interval),
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)
        }
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        # Its fields have names.
        value = value._asdict()
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _key(key: Any) -> str:
    return f"{key:.12g}" if isinstance(key, float) else str(key)
