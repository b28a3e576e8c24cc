"""The luring paper's illustration: three classes that anyone can see through."""

from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from keras_traps._checks import FloatArray, IntArray, check_number
from keras_traps.layers import LuringInput
from keras_traps.luring.answers import answered_dataset
from keras_traps.luring.batches import batch_order, batches
from keras_traps.luring.classifier import LuredClassifier
from keras_traps.luring.losses import LuringLoss

SIZE, CLASSES = 12, 3


def _zones() -> npt.NDArray[np.bool_]:
    zones = np.zeros((CLASSES, SIZE, SIZE), bool)
    half = SIZE // 2
    zones[0, :half, :half] = True
    zones[1, :half, half:] = True
    zones[2, half:, :half] = True
    zones.setflags(write=False)
    return zones


ZONES = _zones()
"""Where each class has its pixels: three quarters of the image, `(3, 12, 12)`, bool.

The fourth quarter, below on the right, is neutral: there no image has any. The paper
draws its zones without saying where they are.
"""


class ToyImages(NamedTuple):
    """Images of the illustration with their classes.

    Args:
        images: `(images, 12, 12, 1)`, float32: 0.3 to 0.7 in the zone of the class,
            0 elsewhere.
        labels: `(images,)`, int64, from 0 to 2.
    """

    images: FloatArray
    labels: IntArray


def toy_images(count: int, *, seed: int) -> ToyImages:
    """Draws images, as many of each class.

    Args:
        count: How many, at least 1.
        seed: Of the pixels.

    Returns:
        The images, the classes in turn.

    Raises:
        ValueError: If `count` is below 1.

    Reference:
        Bernhard, Moellic, Dutertre, Luring of Adversarial Perturbations, Section 3.3.
    """
    check_number(count, name="count", at_least=1)
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = rng.uniform(0.3, 0.7, (count, SIZE, SIZE)) * ZONES[labels]
    return ToyImages(pixels[..., np.newaxis].astype(np.float32), labels)


def toy_target() -> keras.Model:
    """Builds the illustration's classifier M, untrained: a weight per class and zone.

    Its scores are sums over pixels, in which all pixels of a zone weigh the same and
    those of the neutral zone nothing, as the paper has it.

    Returns:
        A model from images `(batch, 12, 12, 1)` to logits `(batch, 3)`, which are 0
        until it is trained.
    """
    inputs = keras.Input((SIZE, SIZE, 1), name="image")
    zones = layers.Dense(CLASSES, use_bias=False, trainable=False, name="zones")
    sums = zones(layers.Flatten()(inputs))
    zones.set_weights([ZONES.reshape(CLASSES, -1).T.astype(np.float32)])
    scores = layers.Dense(
        CLASSES, use_bias=False, kernel_initializer="zeros", name="scores"
    )
    return keras.Model(inputs, scores(sums), name="toy_target")


def train_toy_target(data: ToyImages, *, steps: int = 100) -> keras.Model:
    """Trains M by cross-entropy on all images at each step, and freezes it.

    Args:
        data: The training images.
        steps: How many. Defaults to `100`.

    Returns:
        M, frozen.
    """
    model = toy_target()
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    everything = np.tile(np.arange(len(data.images)), (steps, 1))
    whole = batches(data.images, data.labels, order=everything)
    model.fit(whole, shuffle=False, verbose=0)
    model.trainable = False
    return model


def train_toy_lure(
    target: keras.Model,
    data: ToyImages,
    *,
    loss: LuringLoss = "luring",
    steps: int = 300,
    batch_size: int = 32,
    seed: int = 0,
) -> LuredClassifier:
    """Trains a component P before M: the paper's for MNIST, at 12 by 12 pixels.

    Args:
        target: M, frozen.
        data: The training images; their labels are not looked at.
        loss: As in `LuredClassifier.compile`. Defaults to `"luring"`.
        steps: How many. Defaults to `300`.
        batch_size: Images at each. Defaults to `32`.
        seed: Of the first weights and the order of images. Defaults to `0`.

    Returns:
        M∘P, compiled.
    """
    keras.utils.set_random_seed(seed)
    model = LuredClassifier(target, LuringInput("mnist"), output="logits")
    model.compile(keras.optimizers.Adam(3e-3), loss)
    order = batch_order(len(data.images), batch_size, steps, seed=seed)
    told = answered_dataset(target, data.images, output="logits", order=order)
    model.fit(told, shuffle=False, verbose=0)
    return model
