"""Proof, after every export, that what was written answers as the live model does."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attractors import integrate
from keras_traps.layers import SoftLabels
from keras_traps.models.inference import predict
from keras_traps.serving.graph import NO_CLASS
from keras_traps.serving.subject import Signature, Subject

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

    Args:
        subject: What was exported.
        directory: The SavedModel.
        examples: Images of the user's own, `(batch, ...)`, or `None`. Noise, black
            and white are tried in any case.

    Returns:
        The differences.

    Raises:
        SelfTestError: If the model cannot be loaded, an answer differs, or the live
            model's own answer is not finite.
    """
    levels = _probes(subject, examples)
    with tempfile.TemporaryDirectory(prefix="keras_traps_selftest_") as folder:
        for signature in subject.signatures:
            probe = _probe(subject, signature, levels)
            np.savez(Path(folder, f"probe_{signature}.npz"), **probe)  # type: ignore[arg-type]
        report = _run(directory, Path(folder))
    result = SelfTest(
        live={name: found["live"] for name, found in report.items()},
        alone={name: found["alone"] for name, found in report.items()},
        num_images=len(levels),
    )
    for told, found in (
        ("the live model", result.live),
        ("the same image alone", result.alone),
    ):
        for name, difference in found.items():
            if not difference <= 1.0:
                raise SelfTestError(
                    f"The exported signature {name!r} does not answer as {told}: "
                    f"the largest difference is {difference:.3g} times the tolerance."
                )
    return result


def live_answers(subject: Subject, signature: Signature, images: FloatArray) -> Arrays:
    """Returns what a signature has to answer, from the models themselves.

    Args:
        subject: What is served.
        signature: The signature.
        images: `(batch, ...)`, float32, pixels in [0, 1].

    Returns:
        By the name of an output, its value.
    """
    if signature == "integrated":
        if subject.analyzer is None:
            raise ValueError("The signature 'integrated' needs an analyzer.")
        return _named(
            subject, predict(integrate(subject.model, subject.analyzer), images)
        )
    if subject.lure is not None:
        return _lured_answers(subject, signature, images)
    answer = _named(subject, _probabilities(subject, images))
    if signature == "analyze":
        if subject.analyzer is None:
            raise ValueError("The signature 'analyze' needs an analyzer.")
        verdict = subject.analyzer.detect(images)
        answer |= {
            "score": verdict.score,
            "is_adversarial": verdict.is_adversarial,
            "fired": verdict.fired,
            "recovered_class_id": verdict.recovered,
            "recovered_label": np.array(subject.class_names)[verdict.recovered],
        }
    return answer


def _lured_answers(
    subject: Subject, signature: Signature, images: FloatArray
) -> Arrays:
    if subject.lure is None:
        raise ValueError("The subject has no lure.")
    lured = _probabilities(subject, predict(subject.lure, images))
    if subject.deploy == "augmented" and signature != "predict_agreed":
        return _named(subject, lured)
    probabilities = _probabilities(subject, images)
    answer = _named(subject, probabilities)
    if subject.deploy == "agreed" or signature == "predict_agreed":
        agreed = probabilities.argmax(axis=1) == lured.argmax(axis=1)
        answer["probabilities"] = np.where(agreed[:, np.newaxis], probabilities, 0)
        answer["class_id"] = np.where(agreed, answer["class_id"], NO_CLASS)
        answer["label"] = np.where(agreed, answer["label"], "")
        if signature == "predict_agreed":
            answer["agreed"] = agreed
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


def _probe(
    subject: Subject, signature: Signature, levels: npt.NDArray[np.uint8]
) -> Arrays:
    """What the fresh process asks, what it expects, and what it tolerates."""
    images = np.divide(levels, 255, dtype=np.float32)
    given: npt.NDArray[Any] = images
    if signature == "serving_uint8":
        given = levels
    elif signature == "image_bytes":
        given = np.array([tf.io.encode_png(image).numpy() for image in levels])
    expected = live_answers(subject, signature, images)
    _check_finite(signature, expected)
    probe: Arrays = {"input": given}
    for name, value in expected.items():
        if value.dtype.kind == "U":
            value = np.array([text.encode() for text in value])
        probe[name] = value
    probe["tolerance/probabilities"] = np.array(TOLERANCE * _rounding(subject.model))
    if signature == "analyze" and subject.analyzer is not None:
        spread = min(subject.analyzer.thresholds.scale)
        probe["tolerance/score"] = np.array(TOLERANCE / min(spread, 1.0))
    return probe


def _rounding(model: keras.Model) -> float:
    """How many times the rounding of a classifier's logits is in a model's answers."""
    temperatures = [
        layer.temperature for layer in model.layers if isinstance(layer, SoftLabels)
    ]
    return 1 / min([1.0, *temperatures])


def _check_finite(signature: Signature, answer: Arrays) -> None:
    """Raises `SelfTestError` where there is nothing that an answer could equal."""
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


def _run(directory: Path, probes: Path) -> dict[str, dict[str, float]]:
    script = Path(__file__).with_name("_reload.py")
    # -P: the folder of the script, which is in this package, is not searched.
    command = [sys.executable, "-P", str(script), str(directory), str(probes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SelfTestError(
            "The exported model cannot be loaded and run without keras_traps:\n"
            f"{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])
