"""Evaluations of a few digits, luring's models in small, and runs made by hand."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import pytest
from keras import layers

from keras_traps import Calibration, attacks
from keras_traps._checks import FloatArray
from keras_traps.attacks import Attack, Batch
from keras_traps.attractors import (
    ForensicAnalyzer,
    Thresholds,
    TrapSettings,
    inject,
)
from keras_traps.datasets import Dataset
from keras_traps.detectors import ScoreDetector
from keras_traps.evaluation.evaluate import Evaluation, evaluate
from keras_traps.evaluation.records import Record, RecordStore, Run
from keras_traps.evaluation.subjects import (
    Defence,
    Examples,
    Subject,
    Watermark,
    luring_subjects,
)
from keras_traps.models.inference import predict

SHAPE, CLASSES = (6, 6, 1), 3

Evaluate = Callable[..., Evaluation]


class Undisturbed(NamedTuple):
    """An evaluation that nothing disturbed, and where its records are."""

    found: Evaluation
    workdir: Path


@pytest.fixture(scope="session")
def evaluate_digits(
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_test: Dataset,
    digits_train: Dataset,
) -> Evaluate:
    """Evaluates two attacks on a few digits, three chunks; arguments may be changed."""
    arguments: dict[str, Any] = {
        "defence": digits_defence,
        "calibration": digits_calibration,
        "test": digits_test,
        "attacks": attacks.preset("digits", ["FGSM", "PGD"]),
        "background": digits_train.images,
        "provenance": {"command": "python recipes/digits.py", "seed": 5},
        "num_examples": 14,
        "chunk_size": 6,
        "seed": 5,
    }

    def run(workdir: Path, **changes: Any) -> Evaluation:
        store = RecordStore(workdir, {}, resume=True)
        return evaluate(store=store, **arguments | changes)

    return run


@pytest.fixture(scope="session")
def undisturbed(
    evaluate_digits: Evaluate, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    workdir = tmp_path_factory.mktemp("undisturbed")
    return Undisturbed(evaluate_digits(workdir=workdir), workdir)


def examples_of(images: Any, labels: Any, first: int = 0) -> Examples:
    """Examples with the next class as every target."""
    ids, goals = np.arange(first, first + len(images)), (labels + 1) % CLASSES
    return Examples(ids, images, labels, goals, goals)


class Lured(NamedTuple):
    """M, P and M∘P of tiny images, and images that both answer to in some way."""

    target: keras.Model
    augmented: keras.Model
    examples: Examples


@pytest.fixture(scope="session")
def lured() -> Lured:
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE, name="image")
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(inputs))
    target = keras.Model(inputs, layers.Dense(CLASSES)(x), name="target")
    lure = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(3, 3, padding="same", activation="relu"),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
        ],
        name="lure",
    )
    augmented = keras.Model(inputs, target(lure(inputs)), name="augmented")
    images = np.random.default_rng(0).random((40, *SHAPE), np.float32)
    labels = predict(target, images).argmax(axis=1)
    return Lured(target, augmented, examples_of(images, labels, 100))


def threatened(lured: Lured, threat: Any = "luring", **changes: Any) -> list[Subject]:
    """What one kind of attacker attacks; arguments may be changed."""
    arguments: dict[str, Any] = {
        "target": lured.target,
        "augmented": lured.augmented,
        "examples": lured.examples,
        "weights": {"target": "a"},
    }
    return luring_subjects(threat, "ce", **arguments | changes)


class Power:
    """Lets attacks run until the power fails, and counts their batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *attacks: type[Attack]) -> None:
        self.sizes: list[int] = []
        self.fails_at: int | None = None
        for attack in attacks:
            original = attack.perturb

            def perturb(made: Any, batch: Batch, original: Any = original) -> Any:
                self.sizes.append(len(batch.ids))
                if len(self.sizes) == self.fails_at:
                    raise KeyboardInterrupt
                return original(made, batch)

            monkeypatch.setattr(attack, "perturb", perturb)

    def restore(self, fails_at: int | None = None) -> None:
        """Begins to count anew."""
        self.sizes.clear()
        self.fails_at = fails_at


def evidence_of(correlations: npt.ArrayLike) -> FloatArray:
    """Correlations beside logits that lead by 2."""
    w = np.asarray(correlations, np.float32)
    logits = np.tile(np.array([4, 2, 0], np.float32), (len(w), 1))
    return np.stack([w, logits], axis=1)


def make_record(count: int = 6, **changes: Any) -> Record:
    """A record of images of three classes that nothing happened to."""
    labels = np.arange(count) % 3
    arrays = {
        "ids": np.arange(count),
        "labels": labels,
        "targets": labels,
        "l0": np.full(count, 4),
        "l2": np.ones(count, np.float32),
        "linf": np.full(count, 0.1, np.float32),
        "iterations": np.full(count, 15),
        "kept": np.zeros((min(count, 2), 2, 2, 1), np.float32),
        "answer": labels,
        "evidence": evidence_of(np.zeros((count, 3))),
    }
    changed = {name: np.asarray(value) for name, value in changes.items()}
    return Record({**arrays, **changed})


def make_run(subject: str, attack: str, **changes: Any) -> Run:
    """A run of one chunk, in a folder of its own."""
    run = Run(
        subject=subject,
        attack=attack,
        kind="UA",
        knowledge="gradients",
        eps=0.1,
        settings={"eps": 0.1},
        note="",
        trials=(),
        images=6,
        integrated=subject.startswith("integrated"),
        about={},
        facts={},
        folder=f"{subject}/{attack}-{changes.get('eps', 0.1)}",
        chunks=1,
        provenance={},
    )
    return dataclasses.replace(run, **changes)


def store_of(workdir: Path, cells: Sequence[tuple[Run, Record]]) -> RecordStore:
    """A store that holds these records."""
    store = RecordStore(workdir, {}, resume=True)
    for run, record in cells:
        store.write(run.folder, 0, record)
    return store


class Measure(ScoreDetector):
    """Any function of images as a detector, with thresholds by rate."""

    def __init__(
        self, function: Callable[[FloatArray], Any], thresholds: dict[float, float]
    ) -> None:
        self.function = function
        self._thresholds = thresholds

    def score(self, images: npt.ArrayLike) -> FloatArray:
        return np.asarray(self.function(np.asarray(images)), np.float32)


def make_analyzer(limit: float) -> ForensicAnalyzer:
    """Flags what has a correlation above `limit` or below its negative.

    The score of an image is the largest absolute correlation.
    """
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), layers.Flatten(), layers.Dense(3)]
    )
    settings = TrapSettings(
        output="logits", a0=-1.0, a1=0.0, a2=1.0, step_weights=(1.0, 1.0)
    )
    thresholds = Thresholds(
        upper=limit,
        lower=-limit,
        deviation=10.0,
        lead=1e-3,
        fpr=0.05,
        num_images=100,
        centre=(0.0, 0.0, 0.0, 0.0),
        scale=(1.0, 1.0, 1.0, 1e3),
        score=limit,
    )
    return ForensicAnalyzer(inject(model, settings)).with_thresholds(thresholds)


@pytest.fixture(scope="session")
def watermark() -> Watermark:
    """At 5 % flags correlations above 0.5, at 0.5 % those above 0.8."""
    return Watermark({0.05: make_analyzer(0.5), 0.005: make_analyzer(0.8)})
