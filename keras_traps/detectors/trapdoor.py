"""Trapdoors: patterns that a classifier learns to fall for, and their signatures."""

import dataclasses
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
    check_positive,
    check_share,
)
from keras_traps.detectors.activations import copy_of, inner_model
from keras_traps.detectors.base import ClassifierDetector, Parts
from keras_traps.models.forms import for_model, in_standard_form
from keras_traps.models.inference import predict
from keras_traps.models.logits import attacked_form
from keras_traps.models.outputs import Output
from keras_traps.models.training import compile_classifier

TrapdoorPreset = Literal["mnist", "cifar10", "cpu"]
"""The authors' settings by data set; `"cpu"` is shorter and for any images."""

# A training in which fewer trapdoors than this take hold has failed.
_LEAST_SUCCESS = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrapdoorRecipe:
    """How trapdoors are drawn and learnt.

    Args:
        clean_epochs: Epochs on clean images alone, at first. The authors start with an
            untrained classifier.
        epochs: Epochs in which some images have a trapdoor.
        least_accuracy: On held-out clean images, that the classifier has to keep.
        fall_after: After how many epochs of either kind the rate falls to a tenth.
            Defaults to `11`.
        learning_rate: Of Adam, before it falls. Defaults to `1e-3`.
        batch_size: Images per step. Defaults to `32`.
        inject_ratio: The share of images that get the trapdoor of a class drawn at
            random, and its label. Defaults to `0.5`.
        mask_ratio: How much of a pixel is the trapdoor's. Defaults to `0.1`.
        squares: Of how many squares at random places a trapdoor is made. Defaults to
            `7`.
        pattern_size: Their side, in pixels. Defaults to `3`.
        pattern_per_label: How many trapdoors a class has. Defaults to `1`.
        signature_images: How many training images a signature is the mean of. Defaults
            to `None`: all.

    Raises:
        ValueError: If one of them is out of its range.
    """

    clean_epochs: int
    epochs: int
    least_accuracy: float
    fall_after: int = 11
    learning_rate: float = 1e-3
    batch_size: int = 32
    inject_ratio: float = 0.5
    mask_ratio: float = 0.1
    squares: int = 7
    pattern_size: int = 3
    pattern_per_label: int = 1
    signature_images: int | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_count("clean_epochs", self.clean_epochs, at_least=0)
        check_number(self.least_accuracy, name="least_accuracy", at_least=0.0, below=1)
        check_positive("learning_rate", self.learning_rate)
        for name in ("inject_ratio", "mask_ratio"):
            check_share(getattr(self, name), name=name)
        names = ["epochs", "fall_after", "batch_size", "squares", "pattern_size"]
        for name in (*names, "pattern_per_label"):
            check_count(name, getattr(self, name))
        if self.signature_images is not None:
            check_count("signature_images", self.signature_images)


TRAPDOOR_PRESETS: dict[TrapdoorPreset, TrapdoorRecipe] = {
    "mnist": TrapdoorRecipe(clean_epochs=10, epochs=10, least_accuracy=0.98),
    "cifar10": TrapdoorRecipe(clean_epochs=20, epochs=20, least_accuracy=0.75),
    "cpu": TrapdoorRecipe(
        clean_epochs=2, epochs=4, least_accuracy=0.0, signature_images=1000
    ),
}
"""The settings of the authors' code, and one to try it with."""

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
    _trapdoors: tuple[FloatArray, FloatArray] | None = None

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
        made._trapdoors = _draw_trapdoors(made._shape, made._num_classes, recipe, draw)
        made._train(
            in_standard_form(given, made.bounds), classes, recipe, draw, verbose
        )
        some = given[draw.permutation(len(given))[: recipe.signature_images]]
        means = [
            made._mean(made.plant(some, np.full(len(some), k)))
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
        planted = _blend(
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
        neurons, signatures = self._fitted()
        activation, answer = self._inner(images, training=False)
        seen = tf.reshape(tf.cast(activation, tf.float32), (-1, self._width))
        # The gradient of what is 0 everywhere stays finite.
        seen = tf.math.l2_normalize(tf.gather(seen, neurons, axis=1), axis=1)
        expected = tf.gather(tf.constant(signatures), tf.argmax(answer, axis=-1))
        return tf.reduce_sum(seen * expected, axis=1)

    @property
    def _width(self) -> int:
        return math.prod(self._inner.outputs[0].shape[1:])

    def _fitted(self) -> tuple[IntArray, FloatArray]:
        if self._learnt is None:
            raise RuntimeError("There are no signatures yet: call `fit` or `train`.")
        return self._learnt

    def _mean(self, images: FloatArray) -> FloatArray:
        """Returns the mean activation, `(neurons,)`."""
        layer = keras.Model(self._inner.inputs[0], self._inner.outputs[0])
        return predict(layer, images).reshape(len(images), -1).mean(axis=0)

    def _take(self, means: list[FloatArray], filter_ratio: float, seed: int) -> Self:
        """Keeps signatures of a share of the neurons."""
        kept = max(1, int(filter_ratio * self._width))
        neurons = np.random.default_rng(seed).permutation(self._width)[:kept]
        signatures = np.stack(means)[:, neurons]
        norms = np.linalg.norm(signatures, axis=1, keepdims=True)
        # A signature of zeros is like nothing.
        signatures /= np.where(norms > 0, norms, 1)
        self._learnt = neurons, signatures
        self._thresholds = None
        self.__dict__.pop("_compiled", None)
        return self

    def _train(
        self,
        images: FloatArray,
        labels: IntArray,
        recipe: TrapdoorRecipe,
        draw: np.random.Generator,
        verbose: int,
    ) -> None:
        """Trains on clean images, and then on images of which some have a trapdoor."""
        # Of the form that images have here; it shares the weights.
        model = attacked_form(self.classifier, self.output, self.bounds)
        order = draw.permutation(len(images))
        first, rest = np.split(order, [max(1, len(images) // 10)])
        masks, patterns = cast(tuple[FloatArray, FloatArray], self._trapdoors)
        goals = draw.integers(0, len(masks), len(first))
        which = draw.integers(0, masks.shape[1], len(first))
        planted = _blend(images[first], masks[goals, which], patterns[goals, which])
        best = _Best(
            model,
            recipe.least_accuracy,
            (images[first], labels[first]),
            (planted, goals),
        )
        # The authors' `ReduceLROnPlateau` is without effect: their schedule sets the
        # rate again in each epoch.
        falling = keras.callbacks.LearningRateScheduler(
            lambda epoch: (
                recipe.learning_rate * (1 if epoch < recipe.fall_after else 0.1)
            )
        )
        stages: list[tuple[keras.Model, int, list[keras.callbacks.Callback]]] = [
            (model, recipe.clean_epochs, [falling]),
            (
                _Injecting(model, masks, patterns, recipe),
                recipe.epochs,
                [falling, best],
            ),
        ]
        for learner, epochs, callbacks in stages:
            if epochs:
                compile_classifier(learner, keras.optimizers.Adam(recipe.learning_rate))
                learner.fit(
                    images[rest],
                    labels[rest],
                    batch_size=recipe.batch_size,
                    epochs=epochs,
                    callbacks=callbacks,
                    verbose=verbose,
                )
        best.restore()

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


class _Injecting(keras.Model):
    """A classifier that learns from images of which some have a trapdoor."""

    def __init__(
        self,
        model: keras.Model,
        masks: FloatArray,
        patterns: FloatArray,
        recipe: TrapdoorRecipe,
    ) -> None:
        super().__init__(name="injecting", dtype=model.dtype_policy)
        self.model = model
        self.share = recipe.inject_ratio
        self.trapdoors = masks, patterns
        # Seeded by the global seed.
        self.draws = keras.random.SeedGenerator()

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.model(images, training=training)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        moved: dict[str, tf.Tensor] = super().train_step(self.inject(*data))
        return moved

    def inject(
        self, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Gives some images the trapdoor and the label of a class drawn at random."""
        masks, patterns = (tf.constant(one) for one in self.trapdoors)
        rows = (tf.shape(images)[0],)

        def draw(most: int) -> tf.Tensor:
            return keras.random.randint(rows, 0, most, seed=self.draws)

        chosen = keras.random.uniform(rows, seed=self.draws) < self.share
        goals = draw(masks.shape[0])
        place = tf.stack([goals, draw(masks.shape[1])], axis=1)
        planted = _blend(
            images, tf.gather_nd(masks, place), tf.gather_nd(patterns, place)
        )
        return (
            tf.where(chosen[:, None, None, None], planted, images),
            tf.where(chosen, tf.cast(goals, labels.dtype), labels),
        )


class _Best(keras.callbacks.Callback):
    """Keeps the weights after the epoch in which most trapdoors took hold."""

    def __init__(
        self,
        classifier: keras.Model,
        least_accuracy: float,
        clean: tuple[FloatArray, IntArray],
        planted: tuple[FloatArray, IntArray],
    ) -> None:
        super().__init__()
        self.classifier, self.least_accuracy = classifier, least_accuracy
        self.clean, self.planted = clean, planted
        self.seen: list[str] = []
        self.success = _LEAST_SUCCESS
        self.weights: list[npt.NDArray[Any]] | None = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch
        accuracy, success = (
            float((predict(self.classifier, images).argmax(axis=1) == wanted).mean())
            for images, wanted in (self.clean, self.planted)
        )
        if logs is not None:
            logs.update(clean_accuracy=accuracy, trapdoor_success=success)
        self.seen.append(f"{accuracy:.3f} and {success:.3f}")
        # Of epochs that are alike the last.
        if accuracy >= self.least_accuracy and success >= self.success:
            self.success, self.weights = success, self.classifier.get_weights()

    def restore(self) -> None:
        if self.weights is None:
            raise RuntimeError(
                "The trapdoors did not take hold: after no epoch had the classifier "
                f"both an accuracy of {self.least_accuracy:g} on held-out images and "
                f"a trapdoor success of {_LEAST_SUCCESS:g}. By epoch it had "
                f"{', '.join(self.seen)}. More epochs, larger squares or a higher "
                "`mask_ratio` help."
            )
        self.classifier.set_weights(self.weights)


def _check_draw(filter_ratio: float, seed: int) -> None:
    check_number(filter_ratio, name="filter_ratio", above=0, at_most=1)
    check_count("seed", seed, at_least=0)


def _blend(images: Any, masks: Any, patterns: Any) -> Any:
    """Returns images with trapdoors, where masks say how much of them."""
    return masks * patterns + (1 - masks) * images


def _draw_trapdoors(
    shape: tuple[int, ...],
    num_classes: int,
    recipe: TrapdoorRecipe,
    draw: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Draws masks and patterns, each `(classes, per_label, height, width, channels)`.

    A square is of noise with a mean and a deviation of its own, drawn from 0 to 1, cut
    to [0, 1], the same in each channel; where squares overlap they are added.
    """
    height, width, channels = shape
    side = recipe.pattern_size
    if min(height, width) < side:
        raise ValueError(
            "Invalid value for argument `preset`. Expected squares that fit into "
            f"images of the shape {shape}. Received: a side of {side}"
        )
    size = (num_classes, recipe.pattern_per_label, height, width)
    masks, patterns = np.zeros(size), np.zeros(size)
    for one in np.ndindex(size[:2]):
        for _ in range(recipe.squares):
            top = draw.integers(0, height - side + 1)
            left = draw.integers(0, width - side + 1)
            place = (*one, slice(top, top + side), slice(left, left + side))
            noise = draw.normal(draw.uniform(), draw.uniform(), (side, side))
            masks[place] = recipe.mask_ratio
            patterns[place] += np.clip(noise, 0, 1)
    as_images = (
        np.repeat(one[..., None], channels, axis=-1).astype(np.float32)
        for one in (masks, np.clip(patterns, 0, 1))
    )
    return cast(tuple[FloatArray, FloatArray], tuple(as_images))
