"""A variation for the ablation: every pixel has both step sizes at once."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import FloatArray
from keras_traps.attractors import TrapSettings
from keras_traps.attractors.calibration_rules import (
    distances_by_step,
    largest_within_budget,
    scale_for,
    step_weights_for,
)
from keras_traps.layers import QIMDecoder
from keras_traps.models.inference import predict

# Messages of the second scale are drawn from a seed this far away.
_OTHER_SEED = 2**32


class TwoScaleDecoder(QIMDecoder):
    """A decoder whose distances are sums over two step sizes on every pixel.

    It is for experiments: it cannot embed, and its fingerprint is that of one scale.

    Args:
        num_classes: How many classes.
        steps: The two step sizes.
        step_weights: Their weights.
        **kwargs: As for `QIMDecoder`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        steps: Sequence[float],
        step_weights: Sequence[float],
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes, steps=steps[:1], step_weights=step_weights[:1], **kwargs
        )
        self.other = QIMDecoder(
            num_classes,
            seed=self.seed + _OTHER_SEED,
            messages=self.messages,
            steps=steps[1:],
            step_weights=step_weights[1:],
            pixel_scale=self.pixel_scale,
            border_weight=self.border_weight,
        )

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Draws the messages of both scales."""
        super().build(input_shape)
        self.other.build(input_shape)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the correlations with messages that hold both scales."""
        return ops.qim_correlation(self.distances(images), self.a0, self.a1, self.a2)

    def distances(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the sums of both scales' weighted distances."""
        return super().distances(images) + self.other.distances(images)


class TwoScaleSettings(TrapSettings):
    """Settings whose decoder has both step sizes on every pixel."""

    def decoder(self, num_classes: int) -> QIMDecoder:
        """Makes the decoder, not yet built."""
        return TwoScaleDecoder(
            num_classes,
            seed=self.seed,
            messages=self.messages,
            steps=self.steps,
            step_weights=self.step_weights,
            a0=self.a0,
            a1=self.a1,
            a2=self.a2,
            pixel_scale=self.pixel_scale,
            border_weight=self.border_weight,
            name="qim_decoder",
        )


def calibrate_two_scales(
    like: TrapSettings,
    answers: FloatArray,
    images: FloatArray,
    *,
    small_step_share: float,
    budget: float,
    largest_a2: float = 2.0,
    batch_size: int = 256,
) -> TwoScaleSettings:
    """Chooses the constants by the rules of `calibrate`.

    Args:
        like: Whose steps, messages, seed, norm and border to take.
        answers: `(images, num_classes)`: C on the images, as it enters the sum.
        images: `(images, ...)`, float32, in [0, 1]: clean images.
        small_step_share: How much the small step adds to the clean spread, as a share
            of the large one.
        budget: Share of answers that may change.
        largest_a2: The largest A2. Defaults to `2.0`.
        batch_size: How many images at once. Defaults to `256`.

    Returns:
        The settings.

    Raises:
        ValueError: If there are not two step sizes, or no A2 meets the budget.
    """
    if len(like.steps) != 2:
        raise ValueError(
            "Invalid value for argument `like`. Expected two step sizes. "
            f"Received: steps={like.steps}"
        )
    decoder = TwoScaleDecoder(
        answers.shape[1],
        seed=like.seed,
        messages=like.messages,
        steps=like.steps,
        step_weights=(1.0, 1.0),
        border_weight=like.border_weight,
    )
    decoder.build((None, *images.shape[1:]))
    by_step = np.concatenate(
        [distances_by_step(one, images, batch_size) for one in (decoder, decoder.other)]
    )
    weights = step_weights_for(by_step, like.steps, small_step_share)
    distances = np.tensordot(np.asarray(weights, np.float32), by_step, 1)
    a0, a1 = scale_for(distances, 0.3, 0.1)
    unit = ops.qim_correlation(tf.constant(distances), a0, a1, 1.0).numpy()
    a2, _ = largest_within_budget(answers, unit, budget, largest_a2)
    fields = {**like.to_dict(), "step_weights": weights, "a0": a0, "a1": a1, "a2": a2}
    return TwoScaleSettings(**fields)


def answers_as_summed(
    classifier: keras.Model, settings: TrapSettings, images: FloatArray
) -> FloatArray:
    """Returns what C adds to the sum.

    Args:
        classifier: C.
        settings: Whether it is soft labels, and what C returns.
        images: `(images, ...)`, float32.

    Returns:
        `(images, num_classes)`.
    """
    answers = predict(classifier, images)
    head = settings.head()
    return answers if head is None else head(answers).numpy()
