"""Chooses the decoder's constants for a given classifier from clean images alone."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import (
    UNIT,
    Bounds,
    check_bounds,
    check_count,
    check_images,
    check_labels,
    check_number,
    check_range_is_used,
    check_share,
)
from keras_traps.attractors.calibration_rules import (
    LARGEST_CORRELATION,
    changed_answers,
    clean_spread,
    distances_by_step,
    flat_share,
    messages_for,
    scale_for,
    step_index,
    step_weights_for,
)
from keras_traps.attractors.injection import TrapSettings, inject
from keras_traps.image_sources import Images, read_images
from keras_traps.models.forms import check_first_layers
from keras_traps.models.inference import batch_size_for, predict
from keras_traps.models.outputs import (
    Output,
    answers_of,
    check_answers,
    check_classifier,
    check_exclusive,
    check_outputs,
    output_of,
)
from keras_traps.ops.codes import Key, MessageKind


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
        small_step_share: How much the small step adds to the clean spread, as a share
            of the large.
        accuracy: The classifier's on the calibration images; `None` without labels.
            Defaults to `None`.
        explanation: Sentences for a reader. Defaults to none.
    """

    settings: TrapSettings
    changed_answers: float
    budget: float
    num_images: int
    clean_mean: float
    clean_spread: float
    small_step_share: float
    accuracy: float | None = None
    explanation: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns all but the key as plain data, for a report or a file."""
        return {**vars(self), "settings": self.settings.to_dict()}

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, key: Key | bytes | None = None
    ) -> Self:
        """Makes a calibration from what `to_dict` returned, or from its JSON.

        Args:
            data: The fields by name.
            key: The key, which they do not hold. Defaults to `None`: a new one.

        Returns:
            The calibration.

        Raises:
            TypeError: If a field without a default is missing, or one is unknown.
            ValueError: If a setting is out of its range.
        """
        made = cls(**data)
        return dataclasses.replace(
            made,
            settings=TrapSettings.from_dict(data["settings"], key=key),
            explanation=tuple(made.explanation),
        )

    def with_key(
        self, key: Key | bytes | None, classifier: keras.Model, images: Images
    ) -> Self:
        """Returns the same constants for another key, for a change of keys.

        The constants hang on the images and the classifier and hardly on the key. That
        they still keep the budget is checked.

        Args:
            key: The other key; `None` draws one.
            classifier: The classifier that was calibrated.
            images: Clean images, as `calibrate` takes them.

        Returns:
            A calibration whose `changed_answers` is that of the new key.

        Raises:
            ValueError: If more answers change than the budget allows: calibrate anew.
        """
        settings = dataclasses.replace(self.settings, key=Key.of(key))
        clean, _ = read_images(images, rank=len(classifier.input_shape) - 1)
        clean = check_images(clean, classifier.input_shape[1:], bounds=settings.bounds)
        before, after = (
            answers_of(predict(model, clean), output).argmax(axis=1)
            for model, output in (
                (classifier, settings.output),
                (inject(classifier, settings), "scores"),
            )
        )
        changed = float((before != after).mean())
        if changed > self.budget:
            raise ValueError(
                "Invalid value for argument `key`. Expected one that with these "
                f"constants changes at most {self.budget:.3%} of answers: calibrate "
                f"with it instead. Received: one that changes {changed:.3%}"
            )
        told = f"The constants were chosen with another key; this one, {settings.key}, "
        return dataclasses.replace(
            self,
            settings=settings,
            changed_answers=changed,
            explanation=(*self.explanation, f"{told}changes {changed:.3%} of answers."),
        )


def calibrate(
    classifier: keras.Model,
    images: Images,
    labels: npt.ArrayLike | None = None,
    *,
    output: Output | None = None,
    bounds: Bounds = UNIT,
    key: Key | bytes | None = None,
    budget: float = 0.001,
    messages: MessageKind | None = None,
    small_step_share: float = 0.5,
    batch_size: int | None = None,
    **settings: Any,
) -> Calibration:
    """Finds A0, A1, A2, the step weights and the kind of messages for a classifier.

    Five rules, each from clean images alone and without labels:

    1. Messages are `"balanced"`, which doubles what tells an attack from clean images,
       but `"random"` where a tenth of the 2x2 blocks of the images are of one colour:
       noise moves the pixels of such a block together, and a balanced block does not
       see it.
    2. The pixels of the largest step get the weight 1. Those of every other step get
       the weight at which they add `small_step_share` as much to the spread of the
       distances over clean images. So they pull with more force per grey level, for
       attacks too small for the large step, and are outvoted where a large
       perturbation throws them to another period.
    3. A2 is below half of the lead that C's soft labels have where C is sure, so that W
       alone cannot change a sure answer.
    4. A1 puts the mean distance of clean images at u = 0, where W adds nothing.
    5. A0 lets W on 99.9 % of the clean images stay below the least soft label of a sure
       C. So every term of the sum stays above 0, and M's largest output is that of C to
       within 0.05.

    On an image that lies far from the others W can change an answer of which C is
    unsure. That happens to at most the share `budget` of the images, or is refused.

    Labels are for a check alone. A classifier that is given images of another pixel
    range than it was trained on still answers, always the same, and would be trapped on
    garbage: with labels its accuracy is told, and chance is an error; without them it
    is one that nearly all answers are of one or two classes.

    Args:
        classifier: A built Keras model from images to `(batch, num_classes)`, or to
            `(batch, 1)` for two classes.
        images: Clean images, at least `1 / budget` of them, pixels in `bounds`: an
            array `(images, ...)`, a `tf.data.Dataset`, or an iterable of batches; with
            or without labels.
        labels: `(images,)`, integers: their true classes. Defaults to `None`: those
            that `images` come with.
        output: What the classifier returns, `"logits"` or `"probabilities"`. Defaults
            to `None`: what its answers look like, which is printed.
        bounds: The least and the largest value of a pixel, as the classifier was
            trained on. Integer images are taken where both are integers, more than 2
            apart. Defaults to `(0.0, 1.0)`.
        key: The secret that the traps are drawn from, a `keras_traps.Key` or at least
            16 bytes. Defaults to `None`: a new one of the system's randomness. Keep it
            with `calibration.settings.key.save(path)` where the traps are to be made
            again.
        budget: Share of answers that may change. Defaults to `0.001`, 0.1 point.
        messages: `"balanced"` or `"random"`, see `keras_traps.ops.draw_code`.
            Defaults to `None`, rule 1.
        small_step_share: See rule 2; above 0. Defaults to `0.5`.
        batch_size: How many images at once. Defaults to `None`: 256, fewer where images
            are large.
        **settings: The fields of `TrapSettings` that no rule chooses: `steps` and
            `ord`, with the defaults that they have there.

    Returns:
        The settings with an explanation.

    Raises:
        TypeError: If `classifier` is not a Keras model, images are integers where the
            bounds are not, or `settings` has a field that is unknown or chosen by a
            rule.
        ValueError: If an argument is out of its range, the outputs are not what
            `output` declares, the classifier's own rescaling does not fit `bounds`, its
            answers are no better than chance, there are too few images for the budget,
            the images are all alike, or more answers change than the budget allows.
    """
    num_classes = check_classifier(classifier, output or "logits")
    bounds = check_bounds(bounds)
    check_first_layers(classifier, bounds, name="classifier")
    pixels, own_labels = read_images(
        images, labels, rank=len(classifier.input_shape) - 1
    )
    clean = check_images(pixels, classifier.input_shape[1:], bounds=bounds)
    check_range_is_used(clean, bounds)
    budget = check_share(budget, name="budget")
    check_number(small_step_share, name="small_step_share", above=0.0)
    if batch_size is None:
        batch_size = batch_size_for(clean.shape[1:])
    check_count("batch_size", batch_size)
    if own_labels is not None:
        own_labels = check_labels(own_labels, len(clean), num_classes, name="labels")
    # What is not chosen yet is stood in for, so that all else is checked here.
    draft = TrapSettings(
        output=output or "logits",
        a0=-1.0,
        a1=0.0,
        a2=LARGEST_CORRELATION,
        step_weights=(1.0,) * len(settings.get("steps", TrapSettings.steps)),
        messages=messages or "balanced",
        bounds=bounds,
        key=Key.of(key),
        **settings,
    )
    needed = math.ceil(1 / budget)
    if len(clean) < needed:
        raise ValueError(
            f"Invalid value for argument `images`. Expected at least {needed} images "
            f"for a budget of {budget:g}. Received: {len(clean)} images, with which "
            f"budget={math.ceil(1e6 / len(clean)) / 1e6:g} is the least that can be "
            "asked for."
        )

    answers = predict(classifier, clean, batch_size=batch_size)
    if output is None:
        output = output_of(answers)
        draft = dataclasses.replace(draft, output=output)
        print(  # noqa: T201
            f"The outputs of {classifier.name!a} are taken for {output}."
        )
    check_outputs(answers, output)
    check_exclusive(answers, "classifier")
    answers = answers_of(answers, output)
    accuracy = check_answers(answers.argmax(axis=1), own_labels, num_classes, bounds)
    flat = flat_share(clean)
    if messages is None:
        draft = dataclasses.replace(draft, messages=messages_for(flat))
    decoder = draft.decoder(num_classes)
    decoder.build((None, *clean.shape[1:]))
    by_step = distances_by_step(decoder, clean, batch_size)
    step_weights = step_weights_for(by_step, decoder.steps, small_step_share)
    distances = np.tensordot(np.asarray(step_weights, np.float32), by_step, 1)
    a0, a1 = scale_for(distances, draft.a2)
    correlations = ops.qim_correlation(tf.constant(distances), a0, a1, draft.a2)
    changed = changed_answers(answers, output, correlations.numpy(), budget)

    steps = np.asarray(decoder.pixel_steps)
    weights = np.asarray(step_weights, np.float32)[step_index(decoder)]
    # Equation 3 is for the distances themselves, not for the centred ones.
    from_centre = ops.centred_shift(1.0, 0.0, steps, weights)
    found = Calibration(
        settings=dataclasses.replace(
            draft, a0=a0, a1=a1 - a0 * from_centre, step_weights=step_weights
        ),
        changed_answers=changed,
        budget=budget,
        num_images=len(clean),
        accuracy=accuracy,
        clean_mean=float(distances.mean(dtype=np.float64)) - from_centre,
        clean_spread=clean_spread(distances),
        small_step_share=float(small_step_share),
    )
    told = _explain(found, flat)
    return dataclasses.replace(found, explanation=tuple(told))


def _explain(found: Calibration, flat: float) -> Iterator[str]:
    """Says why the constants are what they are, a sentence or two for each choice."""
    settings = found.settings
    if found.accuracy is not None:
        yield (
            f"The classifier is right on {found.accuracy:.1%} of the "
            f"{found.num_images} calibration images."
        )
    yield (
        f"Messages are {settings.messages}: {flat:.1%} of the 2x2 blocks of the images "
        "are of one colour, and balanced messages do not see noise that moves such a "
        "block as a whole."
    )
    weights = ", ".join(
        f"{weight:.3g} for step {step:g}"
        for step, weight in zip(settings.steps, settings.step_weights, strict=True)
    )
    yield (
        f"Pixel weights: {weights}. The large step decides where perturbations are "
        "large; the small one pulls harder per grey level."
    )
    yield (
        f"Clean images lie at a distance of {found.clean_mean:.6g} from a message, "
        f"give or take {found.clean_spread:.4g}; A0 = {settings.a0:.4g} and "
        f"A1 = {settings.a1:.4g} keep what W adds to them below the least soft label "
        "of a sure classifier."
    )
    yield (
        f"A2 = {settings.a2:.4g} is below half of a sure classifier's lead, so that W "
        f"cannot outvote it; {found.changed_answers:.3%} of the calibration images' "
        "answers change."
    )
