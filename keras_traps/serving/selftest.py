"""Proof, after every export, that what was written answers as the live model does."""

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attractors import integrate
from keras_traps.layers import SoftLabels
from keras_traps.luring.schemes import NO_CLASS
from keras_traps.models.inference import predict
from keras_traps.serving.signatures import Signature, Subject, as_taken

TOLERANCE = 1e-6
"""How far a probability may lie from the live model's. A score is measured in standard
deviations of a correlation: it may be off by what a correlation may be. Where soft
labels have a temperature below 1, the rounding of logits is divided by it, and so is
this."""

_NOISE_IMAGES = 6

Arrays = dict[str, npt.NDArray[Any]]


class SelfTestError(RuntimeError):
    """A model that was exported does not answer as the live one does, or with NaN."""


@dataclasses.dataclass(frozen=True)
class SelfTest:
    """What the self-test found.

    Args:
        live: By signature, the largest difference from the live model, in units of
            what is tolerated.
        alone: By signature, the largest difference between a row of a batch and the
            same row alone, in the same units.
        num_images: How many images each signature was asked.
    """

    live: dict[str, float]
    alone: dict[str, float]
    num_images: int


def self_test(
    subject: Subject, directory: Path, examples: FloatArray | None
) -> SelfTest:
    """Reloads a model in a fresh process without this package, and compares.

    Noise, black and white are tried, and what images of the user's own are given.

    Raises:
        SelfTestError: If the model cannot be loaded, an answer differs, or the live
            model's own answer is not finite.
    """
    levels = _probes(subject, examples)
    images = np.divide(levels, 255, dtype=np.float32)
    tolerances = _tolerances(subject)
    live, alone = {}, {}
    with tempfile.TemporaryDirectory(prefix="keras_traps_selftest_") as folder:
        for name in subject.signatures:
            np.save(Path(folder, f"{name}.npy"), as_taken(name, levels))
        expected = {n: live_answers(subject, n, images) for n in subject.signatures}
        _check_finite(expected)
        _reload(directory, Path(folder))
        for name, answer in expected.items():
            batch, rows, none = (
                _read(Path(folder, f"{name}.{kind}.npz"))
                for kind in ("batch", "rows", "none")
            )
            if any(map(len, none.values())):
                raise SelfTestError(f"{name!r} answers an empty batch with rows.")
            live[str(name)] = _difference(batch, answer, tolerances)
            alone[str(name)] = _difference(batch, rows, tolerances)
    for other, found in ("the live model", live), ("the same image alone", alone):
        for signature, difference in found.items():
            if not difference <= 1.0:
                raise SelfTestError(
                    f"The exported signature {signature!r} does not answer as {other}: "
                    f"the largest difference is {difference:.3g} times the tolerance."
                )
    return SelfTest(live, alone, num_images=len(levels))


def live_answers(subject: Subject, signature: Signature, images: FloatArray) -> Arrays:
    """Returns by name what a signature has to answer, from the models themselves."""
    analyzer, lure = subject.analyzer, subject.lure
    if signature == "integrated" and analyzer is not None:
        return _named(subject, predict(integrate(subject.model, analyzer), images))
    own = _probabilities(subject, images)
    answer = _named(subject, own)
    if lure is not None:
        lured = _probabilities(subject, predict(lure, images))
        if signature == "predict_agreed" or subject.deploy == "agreed":
            agreed = own.argmax(axis=1) == lured.argmax(axis=1)
            answer["probabilities"] = np.where(agreed[:, np.newaxis], own, 0)
            answer["class_id"] = np.where(agreed, answer["class_id"], NO_CLASS)
            answer["label"] = np.where(agreed, answer["label"], "")
            if signature == "predict_agreed":
                answer["agreed"] = agreed
        elif subject.deploy == "augmented":
            answer = _named(subject, lured)
    if signature == "analyze" and analyzer is not None:
        verdict = analyzer.detect(images)
        answer |= {
            "score": verdict.score,
            "is_adversarial": verdict.is_adversarial,
            "fired": verdict.fired,
            "recovered_class_id": verdict.recovered,
            "recovered_label": np.array(subject.class_names)[verdict.recovered],
        }
    return answer


def _probabilities(subject: Subject, images: FloatArray) -> FloatArray:
    outputs = predict(subject.model, images)
    return tf.nn.softmax(outputs).numpy() if subject.output == "logits" else outputs


def _named(subject: Subject, probabilities: FloatArray) -> Arrays:
    class_id = probabilities.argmax(axis=1)
    return {
        "probabilities": probabilities,
        "class_id": class_id,
        "label": np.array(subject.class_names)[class_id],
    }


def _probes(subject: Subject, examples: FloatArray | None) -> npt.NDArray[np.uint8]:
    """Grey levels, for every kind of input can carry them."""
    shape = subject.image_shape
    parts = [
        np.random.default_rng(0).integers(0, 256, (_NOISE_IMAGES, *shape), np.uint8),
        np.zeros((1, *shape), np.uint8),
        np.full((1, *shape), 255, np.uint8),
    ]
    if examples is not None:
        parts.append(np.round(examples * 255).astype(np.uint8))
    return np.concatenate(parts)


def _tolerances(subject: Subject) -> dict[str, float]:
    """By output, how far it may be off; what is not named has to be equal."""
    tolerances = {"probabilities": TOLERANCE * _rounding(subject.model)}
    if subject.analyzer is not None:
        spread = min(subject.analyzer.thresholds.scale)
        tolerances["score"] = TOLERANCE / min(spread, 1.0)
    return tolerances


def _rounding(model: keras.Model) -> float:
    """How many times the rounding of a classifier's logits is in a model's answers."""
    temperatures = [
        layer.temperature for layer in model.layers if isinstance(layer, SoftLabels)
    ]
    return 1 / min([1.0, *temperatures])


def _check_finite(answers: Mapping[Signature, Arrays]) -> None:
    """Raises `SelfTestError` where there is nothing that an answer could equal."""
    for signature, answer in answers.items():
        for name, value in answer.items():
            if value.dtype.kind != "f":
                continue
            finite = np.isfinite(value).reshape(len(value), -1).all(axis=1)
            wrong = np.flatnonzero(~finite)
            if wrong.size:
                raise SelfTestError(
                    f"Expected finite answers of the live model. Its {name!r} in the "
                    f"signature {signature!r} is not finite for {wrong.size} of "
                    f"{len(value)} images, the first of them {_image_name(wrong[0])}."
                )


def _image_name(index: int) -> str:
    """Names an image of `_probes`."""
    own = index - _NOISE_IMAGES - 2
    if own >= 0:
        return f"examples[{own}]"
    return {-1: "white", -2: "black"}.get(own, "noise")


def _reload(directory: Path, folder: Path) -> None:
    script = Path(__file__).with_name("_reload.py")
    # -P: the folder of the script, which is in this package, is not searched.
    command = [sys.executable, "-P", str(script), str(directory), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SelfTestError(
            "The exported model cannot be loaded and run without keras_traps:\n"
            f"{done.stderr[-2000:]}"
        )


def _read(path: Path) -> Arrays:
    with np.load(path) as file:
        return dict(file)


def _difference(
    got: Arrays, expected: Arrays, tolerances: Mapping[str, float]
) -> float:
    """The largest difference, in units of what is tolerated."""
    if got.keys() != expected.keys():
        return float("inf")
    largest = 0.0
    for name, value in got.items():
        other = expected[name]
        if other.dtype.kind == "U":
            other = np.char.encode(other, "utf-8")
        if value.shape != other.shape or value.dtype.kind != other.dtype.kind:
            return float("inf")
        if name in tolerances:
            difference = float(np.abs(value.astype(np.float64) - other).max())
            # Told apart here, for `max` would pass over a NaN.
            if not np.isfinite(difference):
                return float("inf")
            largest = max(largest, difference / tolerances[name])
        elif not (value == other).all():
            return float("inf")
    return largest
