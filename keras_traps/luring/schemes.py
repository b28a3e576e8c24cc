"""What is deployed of a lured classifier: M alone, or M where M∘P agrees with it."""

import functools
from typing import Any, cast

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from keras_traps._checks import (
    UNIT,
    Bounds,
    FloatArray,
    KnowsBounds,
    check_bounds,
    check_images,
)
from keras_traps.detectors import ScoreDetector
from keras_traps.layers import LuringInput
from keras_traps.layers.luring_input import from_unit, to_unit
from keras_traps.models.forms import find_bounds, two_columns
from keras_traps.models.inference import inner_layers, is_its_graph, predict
from keras_traps.models.outputs import Output, check_classifier, check_on_noise

NO_CLASS = -1  # the class id where no answer is given

SOFTNESS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
"""What an attacker tries with `softened`; 1 is P's own sigmoid."""


@keras.saving.register_keras_serializable(package="keras_traps")
class DeployedScheme(keras.Model):
    """A functional model that answers as in inference, whatever `training` says."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns the answers by name."""
        # Keras hands the caller's `training=True` on to every layer, past what the
        # layers were connected with.
        del training
        return super().call(inputs, training=False, mask=mask)


def target_model(
    target: keras.Model, *, output: Output, bounds: Bounds | None = None
) -> keras.Model:
    """Makes the first scheme a model: what M says of an image is the answer.

    P is not part of it: it is shown to attackers and never asked.

    Args:
        target: M, called with `training=False`.
        output: What M returns.
        bounds: The least and the largest value of a pixel, as M takes it. Defaults to
            `None`: those of a trapped M, else `(0.0, 1.0)`.

    Returns:
        A functional model from images `(batch, ...)`, as M takes them, to a dict of
        `"class_id"`, `(batch,)`, int32, -1 where the image or M's answer holds a number
        that is not finite, and `"probabilities"`, `(batch, num_classes)`, float32, two
        of an M with one output. It shares M's weights.

    Raises:
        TypeError: If `target` is not a Keras model.
        ValueError: If `target` is not a built classifier, does not return what `output`
            says, or its own rescaling does not fit `bounds`.

    Reference:
        Bernhard, Moellic, Dutertre, Luring of Adversarial Perturbations, Section 4.3,
        scheme (1).
    """
    check_target(target, output, bounds)
    images = keras.Input(target.input_shape[1:], name="image")
    probabilities = _probabilities(target(images, training=False), output)
    answers = {
        "class_id": _answer(probabilities, finite_rows(images, probabilities)),
        "probabilities": probabilities,
    }
    return DeployedScheme(images, answers, name="target_scheme")


def agreement_model(
    target: keras.Model,
    lure: keras.layers.Layer,
    *,
    output: Output,
    bounds: Bounds | None = None,
) -> keras.Model:
    """Makes the second scheme a model: an answer is given where M and M∘P agree.

    Args:
        target: M, called with `training=False`.
        lure: P, from images to images of the same shape: a `LuringInput`, the `lure`
            of a `LuredClassifier`, or any network, called with `training=False`.
        output: What M returns.
        bounds: The least and the largest value of a pixel, as M takes it; a network
            that is no `LuringInput` becomes one of these. Defaults to `None`: those of
            the `LuringInput` or of a trapped M, else `(0.0, 1.0)`.

    Returns:
        A functional model from images `(batch, ...)`, as M takes them, to a dict of
        `"class_id"`, `(batch,)`, int32, -1 where there is no answer; `"agreed"`,
        `(batch,)`, bool; `"probabilities"` of M and `"lured_probabilities"` of M∘P,
        `(batch, num_classes)`, float32, two of an M with one output. There is no answer
        where one of these or the image is not finite. It shares the weights.

    Raises:
        TypeError: If `target` is not a Keras model, or `lure` not a Keras layer.
        ValueError: If `target` is not a built classifier, does not return what `output`
            says, or its own rescaling does not fit `bounds`; or P is of other bounds or
            returns images of another shape.

    Example:
    >>> deployed = keras_traps.luring.agreement_model(
    ...     lured.target, lured.lure, output="logits"
    ... )
    >>> deployed.predict(images)["agreed"].mean()

    Reference:
        Bernhard, Moellic, Dutertre, Luring of Adversarial Perturbations, Section 4.3,
        scheme (2).
    """
    lure = lure_before(target, lure, output, bounds)
    images = keras.Input(target.input_shape[1:], name="image")
    probabilities = _probabilities(target(images, training=False), output)
    mapped = lure(images, training=False)
    lured = _probabilities(target(mapped, training=False), output)
    class_id = agreed_class(probabilities, lured, images)
    answers = {
        "class_id": class_id,
        "agreed": ops.greater(class_id, NO_CLASS),
        "probabilities": probabilities,
        "lured_probabilities": lured,
    }
    return DeployedScheme(images, answers, name="agreement_scheme")


class DisagreementDetector(ScoreDetector):
    """Flags where M does not agree with M∘P: the second scheme as a detector.

    The score of an image is by how much M's own answer leads, in its logits, over the
    class that M∘P answers with: 0 where they agree. Where clean images disagree more
    seldom than a false-positive rate asks for, its threshold is 0, and the rule that of
    `agreement_model`.

    Args:
        target: M, to logits `(batch, num_classes)`.
        lured: M∘P, of the same images and classes.

    Raises:
        ValueError: If one of them is not a built classifier of logits.

    Reference:
        Bernhard, Moellic, Dutertre, Luring of Adversarial Perturbations, Section 4.3,
        scheme (2).
    """

    def __init__(self, target: keras.Model, lured: keras.Model) -> None:
        check_classifier(target, "logits", name="target")
        check_classifier(lured, "logits", name="lured")
        self._bounds = find_bounds(lured, None)
        images = keras.Input(target.input_shape[1:])
        leads = _Lead(dtype="float32")(
            [target(images, training=False), lured(images, training=False)]
        )
        self._model = keras.Model(images, leads)

    def score(self, images: npt.ArrayLike) -> FloatArray:
        """Returns by how much M contradicts M∘P.

        Args:
            images: `(batch, ...)`, as M∘P takes them.

        Returns:
            `(batch,)`, float32, in logits.
        """
        shape = self._model.input_shape[1:]
        given = check_images(images, shape, bounds=self._bounds)
        return np.maximum(predict(self._model, given), 0)

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the same as a function of TensorFlow, with a gradient.

        Args:
            images: `(batch, ...)`, float32, as M∘P takes them.

        Returns:
            `(batch,)`, float32.
        """
        return tf.maximum(cast(tf.Tensor, self._model(images, training=False)), 0.0)


class _Lead(keras.layers.Layer):
    """How far M's largest logit lies above that of the class that M∘P answers with."""

    def call(self, inputs: Any) -> Any:
        target, lured = inputs
        said = ops.expand_dims(ops.argmax(lured, axis=-1), -1)
        there = ops.take_along_axis(target, said, axis=-1)[..., 0]
        return ops.max(target, axis=-1) - there


def agreed_class(
    target_outputs: Any, augmented_outputs: Any, images: Any = None
) -> Any:
    """Gives M's answer where M∘P agrees with it: the rule of the second scheme.

    Args:
        target_outputs: What M returns, `(batch, num_classes)`, float32: logits or
            probabilities. TensorFlow's tensors, or Keras' of a model that is built.
        augmented_outputs: What M∘P returns, of the same kind.
        images: Where they are given, those with a pixel that is not finite get no
            answer. Defaults to `None`.

    Returns:
        `(batch,)`, int32: the class that both rank first, of equals the lowest; -1
        where these differ, or a number is not finite.

    Raises:
        ValueError: If there is one column.
    """
    given = [target_outputs, augmented_outputs]
    if target_outputs.shape[-1] == 1:
        raise ValueError(
            "Invalid value for argument `target_outputs`. Expected a column for each "
            f"class, two for two classes. Received: shape {tuple(target_outputs.shape)}"
        )
    agreed = ops.equal(*(ops.argmax(one, axis=-1) for one in given))
    finite = finite_rows(*given, *(() if images is None else (images,)))
    return _answer(target_outputs, ops.logical_and(agreed, finite))


def finite_rows(*given: Any) -> Any:
    """Says of each row whether all numbers are finite: NaN has a largest class too."""
    finite = [
        ops.all(ops.isfinite(one), axis=tuple(range(1, len(one.shape))))
        for one in given
    ]
    return functools.reduce(ops.logical_and, finite)


def check_target(
    target: keras.Model,
    output: Output,
    bounds: Bounds | None = None,
    *,
    probe: bool = True,
) -> Bounds:
    """Refuses what is no classifier M; returns the bounds of its pixels."""
    check_classifier(target, output, name="target")
    found = find_bounds(target, bounds, name="target")
    if probe:
        check_on_noise(target, output, found)
    return found


def lure_before(
    target: keras.Model,
    network: keras.layers.Layer,
    output: Output,
    bounds: Bounds | None,
    *,
    probe: bool = True,
) -> LuringInput:
    """Makes a P of what the caller passed for `lure`, and checks M with its bounds."""
    check_classifier(target, output, name="target")
    known = _only_lure(network)
    if known is not None:
        if bounds is not None and check_bounds(bounds) != known.bounds:
            raise ValueError(
                "Invalid value for argument `lure`. Expected a `LuringInput` of "
                f"bounds={bounds}. Received: one of bounds={known.bounds}"
            )
        bounds = known.bounds
    if probe:
        bounds = check_target(target, output, bounds)
    lure = lure_of(network, UNIT if bounds is None else bounds)
    if probe and isinstance(lure.network, keras.Model) and lure.network.built:
        try:
            find_bounds(lure.network, UNIT)
        except ValueError:
            raise ValueError(
                "Invalid value for argument `lure`. Expected a network of images in "
                "[0, 1], whatever `bounds` is. Received one whose first layers are for "
                f"another range: {lure.network.name!r}"
            ) from None
    return lure


def lure_of(network: keras.layers.Layer, bounds: Bounds = UNIT) -> LuringInput:
    """Makes a P of a network, so that it returns images in `bounds` wherever it is.

    One that is a P already, or a model of nothing else, is taken as it is.
    """
    known = _only_lure(network)
    if known is not None:
        return known
    if not isinstance(network, keras.layers.Layer):
        raise TypeError(
            "Invalid value for argument `lure`. Expected a Keras layer or model. "
            f"Received: {type(network).__name__}"
        )
    return LuringInput(network=network, bounds=bounds, name="lure")


def _only_lure(network: keras.layers.Layer) -> LuringInput | None:
    """Returns the P that a network is, such as what `to_lure_model` made."""
    if is_its_graph(network):
        parts = [
            one
            for one in getattr(network, "operations", network.layers)
            if not isinstance(one, keras.layers.InputLayer)
        ]
        network = parts[0] if len(parts) == 1 else network
    return network if isinstance(network, LuringInput) else None


def _probabilities(outputs: keras.KerasTensor, output: Output) -> keras.KerasTensor:
    # In half precision two classes may share the largest number.
    outputs = ops.cast(outputs, "float32")
    if outputs.shape[-1] == 1:
        outputs = two_columns(outputs, output)
    return ops.softmax(outputs, axis=-1) if output == "logits" else outputs


def _answer(outputs: Any, given: Any) -> Any:
    classes = ops.cast(ops.argmax(outputs, axis=-1), "int32")
    # Arithmetic, for a constant in a graph of Keras does not survive a file: c where
    # the answer is given, and -1 where it is not.
    kept = ops.cast(given, "int32")
    return ops.add(ops.multiply(kept, ops.add(classes, 1)), NO_CLASS)


def softened(augmented: keras.Model, *, softness: float) -> keras.Model:
    """Makes M∘P a model with the same answers and a gradient that does not vanish.

    For an attacker who knows that P ends in a sigmoid, which saturates.

    Args:
        augmented: M∘P, with a `LuringInput` in it.
        softness: How much flatter the sigmoid is whose gradient is taken; 1 is P's own.

    Returns:
        A model that shares the weights of `augmented`.

    Raises:
        ValueError: If there is no `LuringInput` in the model.
    """
    if not any(isinstance(one, LuringInput) for one in inner_layers(augmented)):
        raise ValueError(
            "Invalid value for argument `augmented`. Expected a model with a "
            f"`LuringInput` in it. Received: {augmented.name!r}"
        )

    def softer(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, LuringInput):
            return _SoftLure(layer, softness)
        if any(isinstance(one, LuringInput) for one in inner_layers(layer)):
            return keras.models.clone_model(layer, clone_function=softer)
        return layer

    return keras.models.clone_model(augmented, clone_function=softer)


class _SoftLure(KnowsBounds, keras.layers.Layer):
    """P with another gradient."""

    def __init__(self, lure: LuringInput, softness: float) -> None:
        super().__init__(name=lure.name, autocast=False)
        self.until_sigmoid = lure.until_sigmoid()
        self.bounds = lure.bounds
        self.softness = softness
        self.built = True

    def call(self, images: keras.KerasTensor) -> keras.KerasTensor:
        images = to_unit(images, self.bounds)
        z = ops.cast(self.until_sigmoid(images, training=False), "float32")
        # Near 0 and 1 the slope of the sigmoid is nearly 0. That of a flatter one is
        # here multiplied by `softness`, which a gradient's direction does not show.
        flat = self.softness * ops.sigmoid(z / self.softness)
        # What is added is 0, and has the gradient.
        still = ops.stop_gradient
        mapped = still(ops.sigmoid(z)) + (flat - still(flat))
        return from_unit(mapped, self.bounds)
