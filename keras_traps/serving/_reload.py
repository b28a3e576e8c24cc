"""Reloads a SavedModel where this package cannot be imported, and compares.

A script of its own, run by `selftest` in a fresh process: it must not import anything
of this package.

Usage:
    python -P _reload.py <SavedModel> <folder with probe_<signature>.npz>
"""

import json
import sys
from pathlib import Path
from typing import Any

# An import of either is an error from here on: TensorFlow alone has to do.
sys.modules["keras_traps"] = sys.modules["keras"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402


def main(directory: Path, probes: Path) -> dict[str, dict[str, float]]:
    """Compares every signature with what is expected of it.

    Args:
        directory: The SavedModel.
        probes: The folder of what it is asked and what it has to answer.

    Returns:
        By signature, the largest difference between a batch and what was expected of
        it, and between a row of a batch and the same row alone; each in units of what
        is tolerated.
    """
    loaded = tf.saved_model.load(str(directory))
    report = {}
    for path in sorted(probes.glob("probe_*.npz")):
        signature = path.stem.removeprefix("probe_")
        with np.load(path) as archive:
            probe = dict(archive)
        serve = loaded.signatures[signature]
        (key,) = serve.structured_input_signature[1]
        images = tf.constant(probe.pop("input"))
        tolerances = {
            name: float(probe.pop(f"tolerance/{name}"))
            for name in list(probe)
            if f"tolerance/{name}" in probe
        }
        batch = _call(serve, key, images)
        if set(batch) != set(probe):
            raise ValueError(
                f"{signature}: expected outputs {sorted(probe)}, got {sorted(batch)}"
            )
        # No image is what the kernels of some machines fail on.
        if any(map(len, _call(serve, key, images[:0]).values())):
            raise ValueError(f"{signature}: an empty batch got an answer with rows")
        rows = [_call(serve, key, images[i : i + 1]) for i in range(len(images))]
        alone = {name: np.concatenate([row[name] for row in rows]) for name in batch}
        report[signature] = {
            "live": _largest_difference(batch, probe, tolerances),
            "alone": _largest_difference(batch, alone, tolerances),
        }
    return report


def _call(serve: Any, key: str, images: Any) -> dict[str, Any]:
    return {name: value.numpy() for name, value in serve(**{key: images}).items()}


def _largest_difference(
    got: dict[str, Any], expected: dict[str, Any], tolerances: dict[str, float]
) -> float:
    largest = 0.0
    for name, value in got.items():
        other = expected[name]
        if value.dtype == object:
            # Strings are held as bytes of any length here, and of a fixed one there.
            value, other = value.astype("S"), np.asarray(other).astype("S")
        if value.shape != other.shape or value.dtype.kind != other.dtype.kind:
            return float("inf")
        if name in tolerances:
            difference = np.abs(value.astype(np.float64) - other).max()
            # Told apart here, for `max` would pass over a NaN.
            if not np.isfinite(difference):
                return float("inf")
            largest = max(largest, float(difference / tolerances[name]))
        elif not (value == other).all():
            return float("inf")
    return largest


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))  # noqa: T201
