"""Trapdoors: patterns that a classifier learns to fall for, and their signatures."""

import math
from typing import Any, Literal, Self, cast

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import (
    Bounds,
    FloatArray,
    IntArray,
    check_count,
    check_labels,
    check_number,
)
from keras_traps.detectors.activations import copy_of, inner_model
from keras_traps.detectors.base import ClassifierDetector, Parts
from keras_traps.detectors.trapdoor_training import (
    TrapdoorRecipe,
    Trapdoors,
    blend,
    draw_trapdoors,
    learn_trapdoors,
)
from keras_traps.models.forms import for_model, in_standard_form
from keras_traps.models.inference import predict
from keras_traps.models.logits import attacked_form
from keras_traps.models.outputs import Output

TrapdoorPreset = Literal["mnist", "cifar10", "cpu"]
"""The authors' settings by data set; `"cpu"` is shorter and for any images."""

TRAPDOOR_PRESETS: dict[TrapdoorPreset, TrapdoorRecipe] = {
    "mnist": TrapdoorRecipe(clean_epochs=10, epochs=10, least_accuracy=0.98),
    "cifar10": TrapdoorRecipe(clean_epochs=20, epochs=20, least_accuracy=0.75),
    "cpu": TrapdoorRecipe(
        clean_epochs=2, epochs=4, least_accuracy=0.0, signature_images=1000
    ),
}
"""The settings of the authors' code, and one to try it with."""

_AT_ONCE = 4096
_SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "cpu": None}


class Trapdoor(ClassifierDetector):
    """Flags images that a trapdoored classifier treats as it treats its trapdoors.

    The classifier has learnt to answer class k where trapdoor k is in an image. An
    attack that looks for a short way to class k tends to find that one. A signature is
    the mean activation of one layer over images with trapdoor k; the score of an image
    is the cosine of its own activation with the signature of the class that is
    answered: from -1 to 1, and 0 for an activation of zeros.

    Thresholds come from `fit_threshold`, of held-out clean images. The authors set
    theirs on the clean images that the very attacks which are then counted started
    from, against the signature of the attacked class. Attacks that know of the detector
    evade it (Carlini, A Partial Break of the Honeypots Defense, 2020; Bryniarski et
    al., 2022, with `OrthogonalPGD`).

    `train` makes the classifier; one with trapdoors of another kind is passed to the
    constructor, and then `fit`. `load` takes the trapdoored classifier, which is saved
    apart.

    Args:
        classifier: With trapdoors; functional or sequential, called with
            `training=False`.
        output: What it returns.
        bounds: The least and the largest value of a pixel, as the classifier takes it.
            Defaults to `None`: those of traps in it, else `(0.0, 1.0)`.
        layer: The name of the layer whose activations are compared. Defaults to `None`:
            what the last dense layer is given.

    Raises:
        TypeError: If `classifier` is not a Keras model.
        ValueError: If it is not built, does not return what `output` says, is of other
            `bounds`, is no graph of layers, or has no such layer.

    Example:
    >>> trapdoor = keras_traps.detectors.Trapdoor.train(
    ...     keras_traps.models.mnist_cnn(), images, labels, output="logits",
    ...     preset="mnist",
    ... ).fit_threshold(held_out, fpr=0.05)
    >>> trapdoor.classifier.save("trapdoored.keras")
    >>> trapdoor.detect(suspects).is_adversarial

    Reference:
        Shan, Wenger, Wang, Li, Zheng, Zhao, Gotta Catch'Em All: Using Honeypots to
        Catch Adversarial Attacks on Neural Networks, CCS 2020.
    """

    _learnt: tuple[IntArray, FloatArray] | None = None
    _trapdoors: Trapdoors | None = None

    def __init__(
        self,
        classifier: keras.Model,
        *,
        output: Output,
        bounds: Bounds | None = None,
        layer: str | None = None,
    ) -> None:
        super().__init__(classifier, output=output, bounds=bounds)
        self.layer = layer
        names = [] if layer is None else [layer]
        self._inner = inner_model(classifier, names, output=output, argument="layer")
        self._layer = keras.Model(self._inner.inputs[0], self._inner.outputs[0])
        self._num_classes = int(self._inner.outputs[1].shape[1])

    @classmethod
    def train(
        cls,
        classifier: keras.Model,
        images: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        output: Output,
        preset: TrapdoorPreset | TrapdoorRecipe,
        bounds: Bounds | None = None,
        layer: str | None = None,
        filter_ratio: float = 1.0,
        seed: int = 0,
        verbose: int = 0,
    ) -> Self:
        """Trains a copy of a classifier to have trapdoors, and takes their signatures.

        A tenth of the images, chosen at random, is held out. Of the epochs in which the
        held-out clean images are answered well enough, the one is kept in which most
        trapdoors take hold; the authors choose it by the test images. Global seeds of
        Python, NumPy and TensorFlow are set.

        Args:
            classifier: Untrained, as the authors start, or trained; it stays as it is.
            images: `(images, ...)`, as the classifier takes them.
            labels: `(images,)`, integers.
            output: What the classifier returns.
            preset: How it is done, by name or by all of its settings.
            bounds: As for the class. Defaults to `None`.
            layer: As for the class. Defaults to `None`.
            filter_ratio: As for `fit`. Defaults to `1.0`.
            seed: Of the trapdoors, the neurons, and the training. Whoever knows it
                knows the trapdoors. Defaults to `0`.
            verbose: `0` silent, `1` a progress bar, `2` a line per epoch. Defaults to
                `0`.

        Returns:
            The detector, without a threshold; the trapdoored classifier is its
            `classifier`.

        Raises:
            TypeError: If `classifier` is not a Keras model, images are integers and the
                bounds are not, or labels are no integers.
            ValueError: If an argument is out of its range, or does not fit the
                classifier or the preset.
            RuntimeError: If after no epoch the classifier was accurate enough and nine
                in ten trapdoors took hold.
        """
        check_count("seed", seed, at_least=0)
        # At first, for a copy's dropout draws its seeds.
        keras.utils.set_random_seed(seed)
        copy = copy_of(classifier, output)
        made = cls(copy, output=output, bounds=bounds, layer=layer)
        if isinstance(preset, TrapdoorRecipe):
            recipe = preset
        else:
            made._check_preset(preset, _SHAPES)
            recipe = TRAPDOOR_PRESETS[preset]
        given = made._check(images)
        classes = check_labels(labels, len(given), made._num_classes, name="labels")
        _check_draw(filter_ratio, seed)
        if len(given) < 2:
            raise ValueError(
                "Invalid value for argument `images`. Expected at least 2, of which "
                f"some are held out. Received: {len(given)}"
            )
        draw = np.random.default_rng(seed)
        trapdoors = draw_trapdoors(made._shape, made._num_classes, recipe, draw)
        made._trapdoors = trapdoors
        # Of the form that trapdoors have; it shares the weights.
        model = attacked_form(copy, output, made.bounds)
        unit = in_standard_form(given, made.bounds)
        learn_trapdoors(model, unit, classes, trapdoors, recipe, draw, verbose)
        some = given[draw.permutation(len(given))[: recipe.signature_images]]
        # All of them at once, with their trapdoors, might not fit into memory.
        parts = np.array_split(some, math.ceil(len(some) / _AT_ONCE))
        means = [
            np.average(
                [made._mean(made.plant(part, np.full(len(part), k))) for part in parts],
                axis=0,
                weights=[len(part) for part in parts],
            )
            for k in range(made._num_classes)
        ]
        return made._take(means, filter_ratio, seed)

    def fit(
        self,
        images: npt.ArrayLike,
        classes: npt.ArrayLike,
        *,
        filter_ratio: float = 1.0,
        seed: int = 0,
    ) -> Self:
        """Takes the signatures of trapdoors that the classifier has already.

        Args:
            images: `(images, ...)`, as the classifier takes them, with trapdoors.
            classes: `(images,)`, integers: which class's trapdoor each has; every class
                comes.
            filter_ratio: The share of neurons that are compared, drawn once. An
                attacker who knows how it is done does not know which. The authors also
                keep the other neurons in a signature's norm; here they are left out.
                Defaults to `1.0`.
            seed: Of that draw. Defaults to `0`.

        Returns:
            The detector itself, without thresholds.

        Raises:
            TypeError: If images are integers and the bounds are not, or classes are no
                integers.
            ValueError: If an argument is out of its range, or a class is missing.
        """
        _check_draw(filter_ratio, seed)
        given = self._check(images)
        wanted = check_labels(classes, len(given), self._num_classes, name="classes")
        missing = set(range(self._num_classes)) - set(wanted.tolist())
        if missing:
            raise ValueError(
                "Invalid value for argument `classes`. Expected each class. Received: "
                f"none of {sorted(missing)}"
            )
        means = [self._mean(given[wanted == k]) for k in range(self._num_classes)]
        return self._take(means, filter_ratio, seed)

    def plant(self, images: npt.ArrayLike, classes: npt.ArrayLike) -> FloatArray:
        """Puts trapdoors into images.

        Args:
            images: `(batch, ...)`, as the classifier takes them.
            classes: `(batch,)`, integers: whose trapdoor each gets; those of a class
                that has several in turn.

        Returns:
            Images as they were given.

        Raises:
            TypeError: If images are integers and the bounds are not, or classes are no
                integers.
            RuntimeError: If the detector was not made by `train`.
            ValueError: If an argument is out of its range.
        """
        if self._trapdoors is None:
            raise RuntimeError("The trapdoors are not known: make them by `train`.")
        given = self._check(images)
        wanted = check_labels(classes, len(given), self._num_classes, name="classes")
        masks, patterns = self._trapdoors
        turn = np.arange(len(given)) % masks.shape[1]
        planted = blend(
            in_standard_form(given, self.bounds),
            masks[wanted, turn],
            patterns[wanted, turn],
        )
        return for_model(self.classifier, planted, self.bounds)

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the cosine with the answered class's signature, with a gradient.

        Args:
            images: `(batch, ...)`, float32, as the classifier takes them.

        Returns:
            `(batch,)`, float32, from -1 to 1.

        Raises:
            RuntimeError: If there are no signatures yet.
        """
        cosines, answer = self._cosines(images)
        return tf.gather(cosines, tf.argmax(answer, axis=-1), axis=1, batch_dims=1)

    def score_as(self, images: npt.ArrayLike, classes: npt.ArrayLike) -> FloatArray:
        """Returns the cosines with the signatures of given classes.

        The authors compare an attacked image, and the clean one that it was made of,
        with the signature of the class that the attack was for.

        Args:
            images: `(batch, ...)`, as the classifier takes them.
            classes: `(batch,)`, integers.

        Returns:
            `(batch,)`, float32, from -1 to 1.

        Raises:
            RuntimeError: If there are no signatures yet.
            TypeError: If images are integers and the bounds are not, or classes are no
                integers.
            ValueError: If an argument is out of its range.
        """
        given = self._check(images)
        wanted = check_labels(classes, len(given), self._num_classes, name="classes")
        parts = np.array_split(given, math.ceil(len(given) / _AT_ONCE))
        found = np.concatenate([self._cosines(part)[0] for part in parts])
        return found[np.arange(len(given)), wanted]

    def _cosines(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns those with all signatures, `(batch, classes)`, and the answer."""
        neurons, signatures = self._fitted()
        activation, answer = self._inner(images, training=False)
        seen = tf.reshape(tf.cast(activation, tf.float32), (-1, self._width))
        # The gradient of what is 0 everywhere stays finite.
        seen = tf.math.l2_normalize(tf.gather(seen, neurons, axis=1), axis=1)
        return tf.matmul(seen, tf.constant(signatures), transpose_b=True), answer

    @property
    def _width(self) -> int:
        return math.prod(self._inner.outputs[0].shape[1:])

    def _fitted(self) -> tuple[IntArray, FloatArray]:
        if self._learnt is None:
            raise RuntimeError("There are no signatures yet: call `fit` or `train`.")
        return self._learnt

    def _mean(self, images: FloatArray) -> FloatArray:
        """Returns the mean activation, `(neurons,)`."""
        return predict(self._layer, images).reshape(len(images), -1).mean(axis=0)

    def _take(self, means: list[FloatArray], filter_ratio: float, seed: int) -> Self:
        """Keeps signatures of a share of the neurons."""
        kept = max(1, int(filter_ratio * self._width))
        neurons = np.random.default_rng(seed).permutation(self._width)[:kept]
        signatures = np.stack(means)[:, neurons].astype(np.float32)
        norms = np.linalg.norm(signatures, axis=1, keepdims=True)
        # A signature of zeros is like nothing.
        signatures /= np.where(norms > 0, norms, 1)
        self._learnt = neurons, signatures
        self._thresholds = None
        self.__dict__.pop("_compiled", None)
        return self

    def _config(self) -> dict[str, Any]:
        return {**super()._config(), "layer": self.layer}

    def _parts(self) -> Parts:
        neurons, signatures = self._fitted()
        parts = {"neurons.npy": neurons, "signatures.npy": signatures}
        if self._trapdoors is not None:
            names = ("masks.npy", "patterns.npy")
            parts.update(zip(names, self._trapdoors, strict=True))
        return parts

    def _restore(self, parts: Parts) -> None:
        found = cast(dict[str, Any], parts)
        self._learnt = found["neurons.npy"], found["signatures.npy"]
        if "masks.npy" in found:
            self._trapdoors = found["masks.npy"], found["patterns.npy"]


def _check_draw(filter_ratio: float, seed: int) -> None:
    check_number(filter_ratio, name="filter_ratio", above=0, at_most=1)
    check_count("seed", seed, at_least=0)
