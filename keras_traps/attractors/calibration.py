"""Chooses the decoder's constants for a given classifier from clean images alone."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import check_images, check_number, check_share
from keras_traps.attractors.calibration_explanation import explain
from keras_traps.attractors.calibration_rules import (
    clean_spread,
    distances_by_step,
    largest_within_budget,
    scale_for,
    step_weights_for,
    temperature_for,
)
from keras_traps.attractors.injection import TrapSettings, check_soft_labels
from keras_traps.layers import QIMDecoder
from keras_traps.models.inference import predict
from keras_traps.models.outputs import Output, check_classifier, check_outputs
from keras_traps.ops.border import check_border_weight
from keras_traps.ops.codes import MessageKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """What `calibrate` chose, and why.

    Args:
        settings: What `inject` takes.
        changed_answers: Share of the calibration images whose class M and C answer
            differently.
        budget: The share that was allowed.
        num_images: How many calibration images there were.
        clean_mean: Mean distance Q of clean images to a message.
        clean_spread: Standard deviation of the same.
        explanation: Sentences for a reader.
        small_step_share: How much the small step adds to the clean spread, as a share
            of the large; `None` where a file does not tell. Defaults to `None`.
    """

    settings: TrapSettings
    changed_answers: float
    budget: float
    num_images: int
    clean_mean: float
    clean_spread: float
    explanation: tuple[str, ...]
    small_step_share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain data, for a report or a file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Makes a calibration from what `to_dict` returned, or from its JSON.

        Args:
            data: The fields by name.

        Returns:
            The calibration.

        Raises:
            TypeError: If a field without a default is missing, or one is unknown.
        """
        nested: dict[str, Any] = {}
        if "settings" in data:
            nested["settings"] = TrapSettings.from_dict(data["settings"])
        if "explanation" in data:
            nested["explanation"] = tuple(data["explanation"])
        return cls(**{**data, **nested})

    def reseeded(self, seed: int) -> Self:
        """Returns the same constants for another draw of messages and steps.

        Args:
            seed: The other seed.

        Returns:
            A calibration whose measurements are still those of the first seed.
        """
        if seed == self.settings.seed:
            return self
        return dataclasses.replace(
            self,
            settings=dataclasses.replace(self.settings, seed=seed),
            explanation=(
                *self.explanation,
                f"The constants were chosen for the messages of seed "
                f"{self.settings.seed} and are used for those of seed {seed}.",
            ),
        )


def calibrate(
    classifier: keras.Model,
    images: npt.ArrayLike,
    *,
    output: Output,
    budget: float = 0.001,
    seed: int = 0,
    messages: MessageKind = "balanced",
    steps: Sequence[float] = (3.0, 128.0),
    small_step_share: float = 0.5,
    soft_labels: bool = True,
    temperature: float | None = None,
    border_weight: float = 1.0,
    ord: float = 1,  # noqa: A002
    clean_position: float = 0.3,
    clean_reach: float = 0.1,
    largest_a2: float = 2.0,
    batch_size: int = 256,
) -> Calibration:
    """Finds A0, A1, A2, the step weights and the temperature for a classifier.

    Five rules, each from clean images alone and without labels:

    1. The pixels of the largest step get the weight 1. Those of every other step get
       the weight at which they add `small_step_share` as much to the spread of the
       distances over clean images. So they pull with more force per grey level, for
       attacks too small for the large step, and are outvoted where a large
       perturbation throws them to another period.
    2. A1 puts the mean distance of clean images at u = `clean_position`.
    3. A0 puts 99.9 % of the clean images' distances within `clean_reach` of it.
    4. A2 is the largest number up to `largest_a2` at which the share of images whose
       answer M changes is at most `budget`. The accuracy on the same images can fall
       by no more than that.
    5. The temperature of C's soft labels is the largest up to 1 at which 99.9 % of
       the clean images' answers lead by 0.99, but at least 0.001. Where C is not sure,
       its own gradient leads an attack, and past the traps.

    A classifier is surer of the images that it was trained on than of others, so that
    more answers change on those others: calibrate on images it has not seen where
    there are enough, or on a smaller budget.

    Args:
        classifier: A built Keras model from images to `(batch, num_classes)`.
        images: `(images, height, width, channels)`, floating point, pixels in [0, 1]:
            clean images, at least `1 / budget` of them.
        output: What the classifier returns, `"logits"` or `"probabilities"`.
        budget: Share of answers that may change. Defaults to `0.001`, 0.1 point.
        seed: Seed of messages and steps. Defaults to `0`.
        messages: How message bits are drawn. Defaults to `"balanced"`.
        steps: Step sizes in grey levels. Defaults to `(3.0, 128.0)`.
        small_step_share: See rule 1. Defaults to `0.5`.
        soft_labels: Whether C(x) in the sum is a softmax. Defaults to `True`.
        temperature: What C's logits are divided by, 0.0001 to 100; 1 leaves the
            soft labels as the classifier has them. Defaults to `None`, rule 5.
        border_weight: What pixels at the border weigh in the distances beside those
            in the very middle, 0.001 to 1000, times the weight of their step size.
            Where images have their subject in the middle, 3 leads attacks on few pixels
            away from it. Defaults to `1.0`, the paper's.
        ord: Order of the sum's norm. Defaults to `1`.
        clean_position: See rule 2; below 1, equation 3's pole. Defaults to `0.3`.
        clean_reach: See rule 3. The smaller it is, the further an attack can move
            before the correlations flatten out and leave the gradient to the
            classifier. Above 0. Defaults to `0.1`.
        largest_a2: See rule 4; above 0. Defaults to `2.0`.
        batch_size: How many images at once. Defaults to `256`.

    Returns:
        The settings with an explanation.

    Raises:
        TypeError: If `classifier` is not a Keras model, or images are integers.
        ValueError: If an argument is out of its range, the outputs are not what
            `output` declares, there are too few images for the budget, the images are
            all alike, or no A2 meets the budget.
    """
    num_classes = check_classifier(classifier, output)
    clean = check_images(images, classifier.input_shape[1:])
    budget = check_share(budget, name="budget")
    check_number(clean_position, name="clean_position", below=1.0)
    check_number(clean_reach, name="clean_reach", above=0.0)
    check_number(largest_a2, name="largest_a2", above=0.0)
    check_soft_labels(soft_labels, temperature)
    check_border_weight(border_weight)
    needed = math.ceil(1 / budget)
    if len(clean) < needed:
        raise ValueError(
            f"Invalid value for argument `images`. Expected at least {needed} images "
            f"for a budget of {budget:g}. Received: {len(clean)} images."
        )
    answers = predict(classifier, clean, batch_size=batch_size)
    check_outputs(answers, output)
    chosen = temperature is None
    if temperature is None:
        temperature = temperature_for(answers, output) if soft_labels else 1.0
    if soft_labels:
        answers = ops.soft_labels(
            answers, temperature, from_logits=output == "logits"
        ).numpy()

    decoder = QIMDecoder.from_seed(
        seed,
        num_classes=num_classes,
        shape=clean.shape[1:],
        messages=messages,
        steps=steps,
        border_weight=border_weight,
    )
    by_step = distances_by_step(decoder, clean, batch_size)
    step_weights = step_weights_for(by_step, decoder.steps, small_step_share)
    distances = np.tensordot(np.asarray(step_weights, np.float32), by_step, 1)

    mean, spread = float(distances.mean()), clean_spread(distances)
    a0, a1 = scale_for(distances, clean_position, clean_reach)
    unit = ops.qim_correlation(tf.constant(distances), a0, a1, 1.0).numpy()
    a2, changed = largest_within_budget(answers, unit, budget, largest_a2)

    settings = TrapSettings(
        output=output,
        a0=a0,
        a1=a1,
        a2=a2,
        step_weights=step_weights,
        steps=decoder.steps,
        messages=messages,
        seed=seed,
        soft_labels=soft_labels,
        ord=ord,
        temperature=float(temperature),
        border_weight=decoder.border_weight,
    )
    return Calibration(
        settings=settings,
        changed_answers=changed,
        budget=budget,
        num_images=len(clean),
        clean_mean=mean,
        clean_spread=spread,
        explanation=explain(
            settings, changed, budget, largest_a2, mean, spread, chosen
        ),
        small_step_share=float(small_step_share),
    )
