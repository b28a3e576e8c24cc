"""Proof, after every export, that what was written answers as the live model does."""

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps._pixels import to_unit
from keras_traps.attractors.injection import evidence_model
from keras_traps.luring.schemes import NO_CLASS
from keras_traps.models.inference import inner_layers, predict
from keras_traps.ops.forensics import statistics
from keras_traps.ops.soft_labels import ROUNDING
from keras_traps.serving.signatures import Signature, Subject, is_trapped

TOLERANCE = 1e-6
"""How far a probability may lie from the live model's. A score is measured in standard
deviations of a correlation: it may be off by what a correlation may be."""

# Logits of two graphs differ by less than this share of the largest.
_LOGITS = 1e-4

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
            same row alone, in the same units. Of a model that computes in half
            precision, where these two are rounded otherwise, that between a row alone
            and the live model's row alone.
        num_images: How many images each signature was asked.
    """

    live: dict[str, float]
    alone: dict[str, float]
    num_images: int


def self_test(
    subject: Subject, directory: Path, examples: FloatArray | None
) -> SelfTest:
    """Reloads a model in a fresh process without this package, and compares."""
    # Grey levels, for every kind of input can carry them.
    shape = (8, *subject.image_shape)
    levels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    levels[6], levels[7] = 0, 255
    if examples is not None:
        shares = to_unit(examples, subject.bounds)
        levels = np.concatenate([levels, np.round(shares * 255).astype(np.uint8)])
    images = subject.pixels[levels]
    expected = {
        name: live_answers(subject, name, images) for name in subject.signatures
    }
    for name, answer in expected.items():
        (bad,) = np.nonzero(~np.isfinite(answer["probabilities"]).all(axis=1))
        if bad.size:
            raise SelfTestError(
                f"Expected finite answers of the live model. Its {name!r} is not "
                f"finite for {bad.size} of {len(levels)} images, the first of them "
                f"number {bad[0]}: 6 is black, 7 white, before is noise, then examples."
            )
    tolerances = _tolerances(subject)
    half, decided = _is_half(subject), _are_decided(subject, images)
    if not decided.any():
        raise SelfTestError(
            f"Every answer to the {len(levels)} images of the test hangs on rounding, "
            "so that none can be compared: pass examples of which the model is surer."
        )
    tested = SelfTest(live={}, alone={}, num_images=len(levels))
    with tempfile.TemporaryDirectory(prefix="keras_traps_selftest_") as folder:
        for name in subject.signatures:
            np.save(Path(folder, f"{name}.npy"), subject.as_taken(name, levels))
        reload(directory, Path(folder))
        for name, answer in expected.items():
            batch, rows, none = (
                dict(np.load(Path(folder, f"{name}.{kind}.npz")))
                for kind in ("batch", "rows", "none")
            )
            if any(map(len, none.values())):
                raise SelfTestError(f"{name!r} answers an empty batch with rows.")
            pairs = {
                "the live model": (tested.live, batch, answer),
                "the same image alone": (tested.alone, batch, rows),
            }
            if half:
                alone = [
                    live_answers(subject, name, images[i : i + 1])
                    for i in range(len(images))
                ]
                live = {n: np.concatenate([row[n] for row in alone]) for n in rows}
                pairs["the same image alone"] = tested.alone, rows, live
            for whom, (found, got, other) in pairs.items():
                difference = _difference(got, other, tolerances, decided)
                found[name] = difference
                if not difference <= 1.0:
                    raise SelfTestError(
                        f"The exported signature {name!r} does not answer as {whom}: "
                        f"the largest difference is {difference:.3g} times the "
                        "tolerance."
                    )
    return tested


def live_answers(subject: Subject, signature: Signature, images: FloatArray) -> Arrays:
    """Returns by name what a signature has to answer, from the models themselves."""
    own = _probabilities(subject, images)
    agreed = np.ones(len(images), bool)
    if subject.lure is not None:
        lured = _probabilities(subject, predict(subject.lure, images))
        if signature == "predict_agreed" or subject.deploy == "agreed":
            agreed = own.argmax(axis=1) == lured.argmax(axis=1)
        elif subject.deploy == "augmented":
            own = lured
    if signature == "integrated":
        own = subject.probabilities(predict(subject.integrated, images)).numpy()
    names = np.array([*subject.class_names, ""])  # the last is that of NO_CLASS
    class_id = np.where(agreed, own.argmax(axis=1), NO_CLASS)
    answer: Arrays = {
        "probabilities": np.where(agreed[:, np.newaxis], own, 0),
        "class_id": class_id,
        "label": names[class_id],
    }
    if signature == "predict_agreed":
        answer["agreed"] = agreed
    if signature == "analyze" and subject.analyzer is not None:
        verdict = subject.analyzer.detect(images)
        answer |= {
            "score": verdict.score,
            "is_adversarial": verdict.is_adversarial,
            "fired": verdict.fired,
            "recovered_class_id": verdict.recovered,
            "recovered_label": names[verdict.recovered],
        }
    return answer


def _probabilities(subject: Subject, images: FloatArray) -> FloatArray:
    return subject.probabilities(predict(subject.model, images)).numpy()


def _tolerances(subject: Subject) -> dict[str, float]:
    """By output, how far it may be off; what is not named has to be equal."""
    tolerances = {"probabilities": TOLERANCE}
    if subject.analyzer is not None:
        spread = min(subject.analyzer.thresholds.scale)
        tolerances["score"] = TOLERANCE / min(spread, 1.0)
    return tolerances


def _are_decided(subject: Subject, images: FloatArray) -> npt.NDArray[np.bool_]:
    """Tells at which images nothing hangs on rounding, so that all have to agree.

    An image by which a threshold was set lies on it, and soft labels change in steps.
    """
    if not is_trapped(subject.model):
        return np.ones(len(images), bool)
    evidence = evidence_model(subject.model)(images, training=False)
    w, logits = tf.unstack(tf.cast(evidence, tf.float64), axis=1)
    off = _LOGITS * tf.reduce_max(tf.abs(logits), axis=1).numpy()
    found = statistics(w, logits).numpy()
    decided = np.exp(-found[:, 3]) > off
    highest = tf.reduce_max(tf.nn.softmax(logits), axis=1).numpy()
    steps = highest / ROUNDING
    # At 1 there is no step: a sure answer hangs on nothing.
    borders = np.minimum(np.round(steps), round(1 / ROUNDING) - 1)
    decided &= np.abs(steps - borders) * ROUNDING > highest * (1 - highest) * off
    if subject.analyzer is not None:
        apart = np.abs(found - subject.analyzer.thresholds.limits)
        decided &= (apart[:, :3] > TOLERANCE).all(axis=1)
        decided &= apart[:, 3] > off * np.exp(found[:, 3])
    return decided


def _is_half(subject: Subject) -> bool:
    """Whether a layer computes in half precision."""
    parts = [part for part in (subject.model, subject.lure) if part is not None]
    layers = [layer for part in parts for layer in inner_layers(part)]
    return any(layer.compute_dtype in ("float16", "bfloat16") for layer in layers)


def reload(directory: Path, folder: Path) -> None:
    """Asks a model in a fresh process where this package cannot be imported."""
    script = Path(__file__).with_name("_reload.py")
    # -P: the folder of the script, which is in this package, is not searched.
    command = [sys.executable, "-P", str(script), str(directory), str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        raise SelfTestError(
            "The exported model cannot be loaded and run without keras_traps:\n"
            f"{done.stderr[-2000:]}"
        )


def _difference(
    got: Arrays,
    expected: Arrays,
    tolerances: Mapping[str, float],
    rows: npt.NDArray[np.bool_],
) -> float:
    """The largest difference, in units of what is tolerated; infinite for a NaN."""
    largest = 0.0 if got.keys() == expected.keys() else np.inf
    for name in got.keys() & expected.keys():
        value, other = got[name], expected[name]
        if other.dtype.kind == "U":
            other = np.char.encode(other, "utf-8")
        if value.shape != other.shape or value.dtype.kind != other.dtype.kind:
            return np.inf
        value, other = value[rows], other[rows]
        if name in tolerances:
            apart = np.abs(value.astype(np.float64) - other).max() / tolerances[name]
            largest = max(largest, float(np.nan_to_num(apart, nan=np.inf)))
        elif not (value == other).all():
            return np.inf
    return largest
