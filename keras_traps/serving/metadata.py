"""What is told about a defence beside its model: never its secrets."""

import datetime
import json
import math
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from keras_traps.serving.subject import Subject

DEFENSE_FILE = Path("assets.extra", "defense.json")
"""Where it lies in a version's folder."""

_FORMAT = "keras_traps.defense.v1"
_PACKAGES = ("keras-traps", "tensorflow", "tensorflow-cpu", "keras", "numpy")


def check_metadata(
    metrics: Mapping[str, float] | None, data_sha256: str | None
) -> None:
    """Refuses what is no metric or no hash.

    Args:
        metrics: Numbers by name.
        data_sha256: The hash of the data, as hexadecimal.

    Raises:
        ValueError: If a metric is not a finite number, or the hash is none.
    """
    for name, value in (metrics or {}).items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(
                "Invalid value for argument `metrics`. Expected finite numbers. "
                f"Received: {name}={value!r}"
            )
    if data_sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", data_sha256):
        raise ValueError(
            "Invalid value for argument `data_sha256`. Expected 64 hexadecimal "
            f"digits. Received: data_sha256={data_sha256!r}"
        )


def write_metadata(
    subject: Subject,
    directory: Path,
    *,
    metrics: Mapping[str, float] | None,
    data_sha256: str | None,
) -> None:
    """Writes `defense.json`.

    It holds no seed, no threshold and no fingerprint of the decoder: whoever guesses
    a seed could check the guess against that. What the analyzer was fitted for is
    told only where a signature uses it.

    Args:
        subject: What is served.
        directory: The version's folder.
        metrics: Numbers by name, such as accuracies.
        data_sha256: The hash of the data that they were measured on.

    Raises:
        OSError: If the file cannot be written.
    """
    content: dict[str, Any] = {
        "format": _FORMAT,
        "defence": subject.kind,
        "deploy": subject.deploy,
        "signatures": list(subject.signatures),
        "num_classes": len(subject.class_names),
        "image_shape": list(subject.image_shape),
        "data_sha256": data_sha256,
        "metrics": dict(metrics or {}),
        "versions": _versions(),
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if subject.analyzer is not None and {"analyze", "integrated"} & {
        *subject.signatures
    }:
        content["false_positive_rate"] = subject.analyzer.thresholds.fpr
    path = directory / DEFENSE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
