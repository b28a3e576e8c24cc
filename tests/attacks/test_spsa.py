from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps.attacks import create
from keras_traps.attacks.loop import Stream, per_example
from tests.attacks.test_model_checks import Rounded
from tests.attacks.victims import (
    PIXELS,
    SHAPE,
    TWO_CLASSES,
    some_images,
    tanh_net,
    two_classes,
)

FAST: dict[str, Any] = {"eps": 0.3, "nb_iter": 8, "learning_rate": 0.05}

SMALL: dict[str, Any] = {**FAST, "spsa_samples": 6}


def answers(model: keras.Model, images: npt.NDArray[np.float32]) -> Any:
    return model(images).numpy().argmax(axis=1)


def transcribed(
    images: npt.NDArray[np.float32], settings: dict[str, Any], seed: int
) -> npt.NDArray[np.float64]:
    """cleverhans' SPSA on the linear model, away from class 0, image by image."""
    ids = np.arange(len(images))
    seeds = per_example(
        lambda draw: draw.integers(np.iinfo(np.int64).max),
        ids,
        seed,
        Stream.SPSA_SEEDS,
    )
    half, iters = settings["spsa_samples"] // 2, settings["spsa_iters"]
    start = create("PGD", eps=settings["eps"], eps_iter=1e-12, nb_iter=1)
    moved = start(two_classes(), images, ids * 0, seed=seed).images.astype(np.float64)
    kernel = TWO_CLASSES.astype(np.float64)
    for image, clean, own in zip(moved, images, seeds, strict=True):
        mean, square = np.zeros(PIXELS), np.zeros(PIXELS)
        for step in range(settings["nb_iter"]):
            slope = np.zeros(PIXELS)
            for number in range(iters):
                drawn = tf.random.stateless_uniform(
                    (half, PIXELS),
                    tf.constant([own, step * iters + number], tf.int64),
                    alg="philox",
                )
                signs = np.where(drawn.numpy() < 0.5, -1, 1)
                changes = settings["delta"] * np.concatenate([signs, -signs])
                logits = (image.reshape(-1) + changes) @ kernel
                losses = logits[:, 0] - logits[:, 1]
                slope += (losses[:, None] * changes).mean(axis=0) / settings["delta"]
            mean = 0.9 * mean + 0.1 * slope
            square = 0.999 * square + 0.001 * slope**2
            size = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-12
            way = mean / (1 - 0.9 ** (step + 1)) / size
            image -= settings["learning_rate"] * way.reshape(SHAPE)
            low = np.maximum(clean - settings["eps"], 0)
            image[:] = np.clip(image, low, np.minimum(clean + settings["eps"], 1))
    return moved


def test_its_steps_are_those_of_the_published_code() -> None:
    images = np.random.default_rng(5).random((4, *SHAPE), np.float32)
    settings = {**SMALL, "spsa_iters": 3, "delta": 0.2}

    result = create("SPSA", **settings)(two_classes(), images, [0] * 4, seed=7)

    expected = transcribed(images, settings, seed=7)
    np.testing.assert_allclose(result.images, expected, atol=2e-4)
    assert np.abs(expected - images).max() > 0.2


def test_an_example_stops_when_its_margin_is_low_enough() -> None:
    images = some_images(40)
    labels = answers(tanh_net().model, images)
    # The random start alone fools some.
    steps = {**FAST, "eps": 0.1, "nb_iter": 12, "learning_rate": 0.01}
    early = create("SPSA", **steps, early_stop_loss_threshold=0.0)(
        tanh_net().model, images, labels
    )
    lower = create("SPSA", **steps, early_stop_loss_threshold=-0.5)(
        tanh_net().model, images, labels
    )

    assert early.success[early.iterations < 12].all()
    assert len(set(early.iterations)) > 3
    assert (lower.iterations >= early.iterations).all()
    assert lower.iterations.sum() > early.iterations.sum()
    logits = tanh_net().model(lower.images).numpy()
    given = np.take_along_axis(logits, labels[:, None], axis=1)
    rival = np.where(np.arange(3) == labels[:, None], -np.inf, logits).max(axis=1)
    stopped = lower.iterations < 12
    assert stopped.any()
    assert (given[stopped, 0] - rival[stopped] < -0.5).all()


def test_it_needs_no_gradient() -> None:
    image = keras.Input(SHAPE)
    rounded = Rounded()(keras.layers.Rescaling(50.0)(image))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(rounded)))
    model.layers[-1].set_weights([TWO_CLASSES, np.zeros(2)])
    images = some_images(20)
    labels = answers(model, images)

    result = create("SPSA", **{**FAST, "eps": 0.4, "delta": 0.05, "nb_iter": 20})(
        model, images, labels
    )

    assert result.success.all()
    assert result.linf.max() <= 0.4 + 1e-6
