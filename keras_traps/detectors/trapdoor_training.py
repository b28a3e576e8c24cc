"""How a classifier learns trapdoors, and how these are drawn."""

import dataclasses
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import (
    FloatArray,
    IntArray,
    check_count,
    check_number,
    check_positive,
    check_share,
)
from keras_traps.models.inference import predict
from keras_traps.models.training import compile_classifier

Trapdoors = tuple[FloatArray, FloatArray]
"""Masks and patterns, each `(classes, per_label, height, width, channels)`."""

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


def learn_trapdoors(
    model: keras.Model,
    images: FloatArray,
    labels: IntArray,
    trapdoors: Trapdoors,
    recipe: TrapdoorRecipe,
    draw: np.random.Generator,
    verbose: int,
) -> None:
    """Trains on clean images, and then on images of which some have a trapdoor.

    Images are as `standard_form` has them, and the model is one of logits.
    """
    order = draw.permutation(len(images))
    first, rest = np.split(order, [max(1, len(images) // 10)])
    masks, patterns = trapdoors
    goals = draw.integers(0, len(masks), len(first))
    which = draw.integers(0, masks.shape[1], len(first))
    planted = blend(images[first], masks[goals, which], patterns[goals, which])
    best = _Best(
        model,
        recipe.least_accuracy,
        (images[first], labels[first]),
        (planted, goals),
    )
    # The authors' `ReduceLROnPlateau` is without effect: their schedule sets the
    # rate again in each epoch.
    falling = keras.callbacks.LearningRateScheduler(
        lambda epoch: recipe.learning_rate * (1 if epoch < recipe.fall_after else 0.1)
    )
    injecting = Injecting(model, masks, patterns, recipe)
    stages: list[tuple[keras.Model, int, list[keras.callbacks.Callback]]] = [
        (model, recipe.clean_epochs, [falling]),
        (injecting, recipe.epochs, [falling, best]),
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


class Injecting(keras.Model):
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
        """Returns the model's answers."""
        return self.model(images, training=training)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Takes a step on images of which some have a trapdoor."""
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
        planted = blend(
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


def blend(images: Any, masks: Any, patterns: Any) -> Any:
    """Returns images with trapdoors, where masks say how much of them."""
    return masks * patterns + (1 - masks) * images


def draw_trapdoors(
    shape: tuple[int, ...],
    num_classes: int,
    recipe: TrapdoorRecipe,
    draw: np.random.Generator,
) -> Trapdoors:
    """Draws the trapdoors of each class.

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
    alike = (1, 1, 1, 1, channels)
    return (
        np.tile(masks[..., None], alike).astype(np.float32),
        np.tile(np.clip(patterns, 0, 1)[..., None], alike).astype(np.float32),
    )
