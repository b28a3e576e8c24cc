"""Learning one perturbation that fools a model on most images."""

import hashlib
from collections.abc import Hashable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks.boundary import Search, boundary_search
from keras_traps.attacks.loop import once_per_model
from keras_traps.attacks.promises import naming_examples
from keras_traps.models.inference import predict
from keras_traps.provenance import weights_sha256

# How many images the model is asked about at once where no gradient is taken.
_ANSWER_BATCH = 500


class LearningSettings(NamedTuple):
    """How to learn. For the meaning of the fields see `UAP`."""

    eps: float
    fooling_rate: float
    nb_images: int
    nb_at_once: int
    max_iter: int
    deepfool_max_iter: int
    overshoot: float
    nb_candidate: int | None


class UniversalPerturbation(NamedTuple):
    """What was learnt.

    Args:
        perturbation: `(height, width, channels)`, float32, in the ball.
        passes: How many passes were made through the images.
        fooling_rate: The share of them that it fools.
    """

    perturbation: FloatArray
    passes: int
    fooling_rate: float


def learn_perturbation(
    model: keras.Model,
    background: FloatArray,
    settings: LearningSettings,
    *,
    seed: int,
) -> UniversalPerturbation:
    """Learns a universal perturbation, or returns the model's last one.

    That is returned where nothing has changed: neither the model's weights, nor the
    images learnt from, the settings or the seed. A model keeps no other than its last.

    Args:
        model: A built model of logits or scores.
        background: `(images, height, width, channels)`, float32, in [0, 1].
        settings: How to learn.
        seed: Of the choice of images, and of their order in each pass.

    Returns:
        The perturbation after the first pass that fools enough of the images; where
        none does, after the one that fools most.

    Raises:
        RuntimeError: If a gradient is not finite; the message names the images.
    """
    draw = np.random.default_rng(seed)
    chosen = draw.permutation(len(background))[: settings.nb_images]
    images = background[chosen]
    # The images may be many, and live longer than the model: only a digest is kept.
    digest = hashlib.sha256(images.data).hexdigest()
    key = (settings, seed, digest, weights_sha256(model))
    last: dict[Hashable, UniversalPerturbation]
    last = once_per_model(model, "universal", lambda _: {})
    if key not in last:
        with naming_examples(f"UAP on {model.name!r}", of=" of the background"):
            learnt = _learn(model, images, chosen, settings, draw)
        last.clear()
        last[key] = learnt
    return last[key]


def _learn(
    model: keras.Model,
    images: FloatArray,
    ids: IntArray,
    settings: LearningSettings,
    draw: np.random.Generator,
) -> UniversalPerturbation:
    answers = _answers(model, images)
    search = boundary_search(model)
    best = perturbation = np.zeros(images.shape[1:], np.float32)
    best_rate, passes = 0.0, 0
    while passes < settings.max_iter and best_rate < settings.fooling_rate:
        order = draw.permutation(len(images))
        for start in range(0, len(order), settings.nb_at_once):
            rows = order[start : start + settings.nb_at_once]
            step = _step(
                search, images[rows], answers[rows], ids[rows], perturbation, settings
            )
            perturbation = np.clip(perturbation + step, -settings.eps, settings.eps)
        passes += 1
        moved = _answers(model, np.clip(images + perturbation, 0, 1))
        rate = float(np.mean(moved != answers))
        # The passes go up and down; the published algorithm keeps the last.
        if rate >= best_rate:
            best, best_rate = perturbation, rate
    return UniversalPerturbation(best, passes, best_rate)


def _step(
    search: Search,
    images: FloatArray,
    answers: IntArray,
    ids: IntArray,
    perturbation: FloatArray,
    settings: LearningSettings,
) -> FloatArray:
    """Returns the sum of the steps that fool the images that are not yet fooled."""
    moved = np.clip(images + perturbation, 0, 1)
    found = search(
        tf.constant(moved),
        tf.constant(answers),
        tf.constant(ids),
        tf.constant(settings.deepfool_max_iter),
        tf.constant(settings.overshoot, tf.float32),
        tf.constant(settings.nb_candidate or np.iinfo(np.int32).max),
    )
    # An image that was fooled before, or could not be, comes back as it was.
    step: FloatArray = (found.images.numpy() - moved).sum(axis=0)
    return step


def _answers(model: keras.Model, images: FloatArray) -> IntArray:
    answers = predict(model, images, batch_size=_ANSWER_BATCH)
    return answers.argmax(axis=1).astype(np.int64)
