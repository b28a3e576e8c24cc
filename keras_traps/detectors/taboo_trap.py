"""Taboo traps: activations that a classifier learns to keep low on clean images."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, Self, cast

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from keras_traps._checks import (
    Bounds,
    FloatArray,
    check_count,
    check_labels,
    check_number,
    check_positive,
)
from keras_traps.detectors.activations import (
    activation_layers,
    copy_of,
    inner_model,
)
from keras_traps.detectors.base import ClassifierDetector, Parts
from keras_traps.models.inference import predict
from keras_traps.models.outputs import Output
from keras_traps.models.training import compile_classifier

TabooTrapPreset = Literal["mnist", "cifar10", "cpu"]
"""Settings by data set; `"cpu"` is shorter and for any images."""

# Smaller probabilities have no gradient in training, as in Keras' own cross-entropy.
_SMALLEST = 1e-7


@dataclasses.dataclass(frozen=True, kw_only=True)
class TabooTrapRecipe:
    """How activations are profiled and a classifier is tuned.

    Args:
        percentile: Of the images' largest activations in a layer, from 0 to 100: where
            the taboo of the layer begins. Defaults to `1.0`.
        weight: What a batch's mean penalty counts, beside its mean cross-entropy.
            Defaults to `0.32`: 0.01 for the sum over 32 images.
        epochs: Epochs of tuning. Defaults to `5`.
        learning_rate: Of SGD. Defaults to `1e-3`.
        momentum: Of SGD. Defaults to `0.5`.
        batch_size: Images per step. Defaults to `32`.

    Raises:
        ValueError: If one of them is out of its range.
    """

    percentile: float = 1.0
    weight: float = 0.32
    epochs: int = 5
    learning_rate: float = 1e-3
    momentum: float = 0.5
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_number(self.percentile, name="percentile", at_least=0, at_most=100)
        check_positive("weight", self.weight)
        check_count("epochs", self.epochs)
        check_positive("learning_rate", self.learning_rate)
        check_number(self.momentum, name="momentum", at_least=0.0, below=1.0)
        check_count("batch_size", self.batch_size)


TABOO_TRAP_PRESETS: dict[TabooTrapPreset, TabooTrapRecipe] = {
    "mnist": TabooTrapRecipe(),
    "cifar10": TabooTrapRecipe(),
    "cpu": TabooTrapRecipe(epochs=1),
}
"""The settings of Kupek et al., whose code is public, and one to try it with."""

_SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "cpu": None}


class TabooTrap(ClassifierDetector):
    """Flags images that drive a classifier's layers beyond what clean ones do.

    A layer's limit t is a percentile of the largest activations that training images
    have in it. The classifier is then tuned to stay below: max(a - t, 0), summed over
    activations a and layers, is added to its loss. The score of an image is the largest
    of (max a - t) / s over the layers, where s is the standard deviation of max a over
    the training images: layers have numbers of any size. It is above 0 where the
    authors flag, who have no other threshold; `fit_threshold` sets one by held-out
    clean images.

    No code of the authors is public; this follows that of Kupek et al., with the limits
    as they are: their secret polynomials of activations are left out. They extract the
    limits from the tuned classifier.

    `train` makes the classifier; `fit` sets limits for one as it is. `load` takes the
    tuned classifier, which is saved apart.

    Args:
        classifier: Functional or sequential, called with `training=False`.
        output: What it returns.
        bounds: The least and the largest value of a pixel, as the classifier takes it.
            Defaults to `None`: those of traps in it, else `(0.0, 1.0)`.
        layers: Names of the layers with a limit. Defaults to `()`: those that end in a
            non-linear function, but for the answer.

    Raises:
        TypeError: If `classifier` is not a Keras model.
        ValueError: If it is not built, does not return what `output` says, is of other
            `bounds`, is no graph of layers, or has no such layer.

    Example:
    >>> taboo = keras_traps.detectors.TabooTrap.train(
    ...     classifier, images, labels, output="logits", preset="mnist"
    ... ).fit_threshold(held_out, fpr=0.05)
    >>> taboo.classifier.save("with_taboos.keras")
    >>> taboo.detect(suspects).is_adversarial

    Reference:
        Shumailov, Zhao, Mullins, Anderson, The Taboo Trap: Behavioural Detection of
        Adversarial Samples, 2018; Kupek, Pasquini, Boehme, On the Difficulty of Hiding
        Keys in Neural Networks, IH&MMSec 2020.
    """

    _learnt: tuple[FloatArray, FloatArray] | None = None

    def __init__(
        self,
        classifier: keras.Model,
        *,
        output: Output,
        bounds: Bounds | None = None,
        layers: Sequence[str] = (),
    ) -> None:
        super().__init__(classifier, output=output, bounds=bounds)
        self.layers = tuple(layers) or tuple(activation_layers(classifier))
        if not self.layers:
            raise ValueError(
                "Invalid value for argument `layers`. Expected names of layers, for "
                f"{classifier.name!r} has none with an activation. Received: {layers}"
            )
        self._inner = inner_model(
            classifier, self.layers, output=output, argument="layers"
        )
        largest = [
            ops.max(ops.cast(one, "float32"), axis=tuple(range(1, len(one.shape))))
            for one in self._inner.outputs[:-1]
        ]
        self._largest = keras.Model(self._inner.inputs[0], ops.stack(largest, axis=1))

    @classmethod
    def train(
        cls,
        classifier: keras.Model,
        images: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        output: Output,
        preset: TabooTrapPreset | TabooTrapRecipe,
        bounds: Bounds | None = None,
        layers: Sequence[str] = (),
        seed: int = 0,
        verbose: int = 0,
    ) -> Self:
        """Tunes a copy of a trained classifier to stay below limits of its own.

        Global seeds of Python, NumPy and TensorFlow are set.

        Args:
            classifier: A trained one; it stays as it is.
            images: `(images, ...)`, as the classifier takes them: its training images.
            labels: `(images,)`, integers.
            output: What the classifier returns.
            preset: How it is done, by name or by all of its settings.
            bounds: As for the class. Defaults to `None`.
            layers: As for the class. Defaults to `()`.
            seed: Of the order of images and the like. Defaults to `0`.
            verbose: `0` silent, `1` a progress bar, `2` a line per epoch. Defaults to
                `0`.

        Returns:
            The detector, without a threshold; the tuned classifier is its `classifier`.

        Raises:
            TypeError: If `classifier` is not a Keras model, images are integers and the
                bounds are not, or labels are no integers.
            ValueError: If an argument is out of its range, or does not fit the
                classifier or the preset.
        """
        check_count("seed", seed, at_least=0)
        # At first, for a copy's dropout draws its seeds.
        keras.utils.set_random_seed(seed)
        copy = copy_of(classifier, output)
        made = cls(copy, output=output, bounds=bounds, layers=layers)
        if isinstance(preset, TabooTrapRecipe):
            recipe = preset
        else:
            made._check_preset(preset, _SHAPES)
            recipe = TABOO_TRAP_PRESETS[preset]
        given = made._check(images)
        num_classes = int(made._inner.outputs[-1].shape[1])
        classes = check_labels(labels, len(given), num_classes, name="labels")
        limits, _ = made.fit(given, percentile=recipe.percentile)._fitted()
        *activations, answer = made._inner.outputs
        if output == "probabilities":
            answer = ops.log(ops.maximum(answer, _SMALLEST))
        penalised = _Penalty(limits, recipe.weight)([answer, *activations])
        learner = keras.Model(made._inner.inputs[0], penalised)
        compile_classifier(
            learner, keras.optimizers.SGD(recipe.learning_rate, recipe.momentum)
        )
        learner.fit(
            given,
            classes,
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            verbose=verbose,
        )
        return made._take(limits, given)

    def fit(self, images: npt.ArrayLike, *, percentile: float = 100.0) -> Self:
        """Sets the limits by clean images, and leaves the classifier as it is.

        Args:
            images: `(images, ...)`, as the classifier takes them.
            percentile: Of their largest activations in a layer, from 0 to 100. Defaults
                to `100.0`: their maximum.

        Returns:
            The detector itself, without thresholds.

        Raises:
            TypeError: If images are integers and the bounds are not.
            ValueError: If `percentile` is not from 0 to 100, a pixel is not in
                `bounds`, or images are of another shape.
        """
        check_number(percentile, name="percentile", at_least=0, at_most=100)
        given = self._check(images)
        largest = predict(self._largest, given)
        limits = np.percentile(largest, percentile, axis=0).astype(np.float32)
        return self._take(limits, given)

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        """Returns how far the layers go beyond their limits, with a gradient.

        Args:
            images: `(batch, ...)`, float32, as the classifier takes them.

        Returns:
            `(batch,)`, float32, in clean standard deviations; above 0 where a limit is
            broken.

        Raises:
            RuntimeError: If there are no limits yet.
        """
        limits, spreads = self._fitted()
        largest = self._largest(images, training=False)
        return tf.reduce_max((largest - limits) / spreads, axis=1)

    def _fitted(self) -> tuple[FloatArray, FloatArray]:
        if self._learnt is None:
            raise RuntimeError("There are no limits yet: call `fit` or `train`.")
        return self._learnt

    def _take(self, limits: FloatArray, images: FloatArray) -> Self:
        """Keeps limits, and the spreads of images as the classifier is now."""
        spreads = predict(self._largest, images).std(axis=0)
        # One image has no spread, and nor has a layer that is always 0.
        self._learnt = limits, np.where(spreads > 0, spreads, np.float32(1))
        self._thresholds = None
        self.__dict__.pop("_compiled", None)
        return self

    def _config(self) -> dict[str, Any]:
        return {**super()._config(), "layers": self.layers}

    def _parts(self) -> Parts:
        limits, spreads = self._fitted()
        return {"limits.npy": limits, "spreads.npy": spreads}

    def _restore(self, parts: Parts) -> None:
        found = cast(dict[str, Any], parts)
        self._learnt = found["limits.npy"], found["spreads.npy"]


def taboo_penalty(activations: Sequence[tf.Tensor], limits: FloatArray) -> tf.Tensor:
    """Returns by how much activations are above their layers' limits, summed.

    At a limit the gradient is 0. One row for each image: `(batch,)`, float32.
    """
    total = 0.0
    for one, limit in zip(activations, limits, strict=True):
        axes = tuple(range(1, len(one.shape)))
        total += ops.sum(ops.relu(ops.cast(one, "float32") - limit), axis=axes)
    return total


class _Penalty(keras.layers.Layer):
    """Returns the answer, and adds the penalty of activations to the loss."""

    def __init__(self, limits: FloatArray, weight: float) -> None:
        super().__init__(name="penalty", autocast=False)
        self.limits, self.weight = limits.tolist(), weight

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        answer, *activations = inputs
        penalty = taboo_penalty(activations, self.limits)
        self.add_loss(self.weight * ops.mean(penalty))
        return answer
