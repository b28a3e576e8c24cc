"""The signatures as functions of stock TensorFlow operations alone."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import keras
import tensorflow as tf

from keras_traps.attractors import Thresholds, integrate
from keras_traps.serving.subject import Signature, Subject

Answer = dict[str, tf.Tensor]

_Part = TypeVar("_Part")

NO_CLASS = -1
"""The class id where no answer is given; its label is empty."""


def save(subject: Subject, directory: Path) -> None:
    """Writes a SavedModel that holds what its signatures need and nothing else.

    Neither layers nor their settings are written, only variables without names; nor
    are gradients and stack traces.

    Args:
        subject: What to write.
        directory: Where to, a folder that does not exist or is empty.

    Raises:
        OSError: If it cannot be written.
    """
    functions = concrete_functions(subject)
    holder = tf.Module()
    kept = {
        id(variable): variable
        for function in functions.values()
        for variable in function.variables
    }
    holder.kept = list(kept.values())
    tf.saved_model.save(
        holder,
        str(directory),
        signatures=functions,
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )


def concrete_functions(subject: Subject) -> dict[Signature, Any]:
    """Makes the functions of a subject's signatures, each for any batch size.

    Args:
        subject: What they answer for.

    Returns:
        By signature, a concrete function with one input, whose name is the subject's
        `input_key`, and outputs by name.
    """
    shape = (None, *subject.image_shape)
    pixels = tf.TensorSpec(shape, tf.float32, name=subject.input_name)
    levels = tf.TensorSpec(shape, tf.uint8, name=subject.input_name)
    files = tf.TensorSpec((None,), tf.string, name=subject.input_key("image_bytes"))
    answers = _Answers(subject)
    recipes: dict[Signature, tuple[Callable[[tf.Tensor], Answer], tf.TensorSpec]] = {
        "serving_default": (answers.predict, pixels),
        "analyze": (answers.analyze, pixels),
        "integrated": (answers.integrated, pixels),
        "predict_agreed": (answers.predict_agreed, pixels),
        "serving_uint8": (answers.predict_levels, levels),
        "image_bytes": (answers.predict_files, files),
    }
    return {
        name: tf.function(
            recipes[name][0], input_signature=[recipes[name][1]], autograph=False
        ).get_concrete_function()
        for name in subject.signatures
    }


def _on_one_image_at_least(
    answer: Callable[["_Answers", tf.Tensor], Answer],
) -> Callable[["_Answers", tf.Tensor], Answer]:
    """Keeps an empty batch from kernels: on some CPUs oneDNN's fail on it.

    A black image stands in for it, and its answer is cut off.
    """

    @functools.wraps(answer)
    def filled(self: "_Answers", images: tf.Tensor) -> Answer:
        count = tf.shape(images)[0]
        missing = tf.maximum(1 - count, 0)
        shape = images.shape
        images = tf.pad(images, [[0, missing], *[[0, 0]] * (shape.rank - 1)])
        rows = answer(self, tf.ensure_shape(images, shape))
        return {name: value[:count] for name, value in rows.items()}

    return filled


class _Answers:
    """What each signature computes."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        # Made here, for which weights are read: a trace cannot.
        self._integrated = self._both = None
        model, analyzer = subject.model, subject.analyzer
        if analyzer is not None:
            self._integrated = integrate(model, analyzer)
            # One pass for both: M holds W.
            correlations = model.get_layer("normalized_sum").input[1]
            self._both = keras.Model(model.input, [model.output, correlations])

    @_on_one_image_at_least
    def predict(self, images: tf.Tensor) -> Answer:
        if self._subject.deploy == "agreed":
            answer = self.predict_agreed(images)
            del answer["agreed"]
            return answer
        if self._subject.deploy == "augmented":
            probabilities = self._probabilities(self._lured(images))
        else:
            probabilities = self._probabilities(images)
        return self._answer(probabilities, _are_finite(images, probabilities))

    def predict_levels(self, levels: tf.Tensor) -> Answer:
        return self.predict(tf.cast(levels, tf.float32) / 255.0)

    def predict_files(self, files: tf.Tensor) -> Answer:
        shape = self._subject.image_shape

        def decode(file: tf.Tensor) -> tf.Tensor:
            image = tf.io.decode_image(file, shape[-1], expand_animations=False)
            # Of another size it is refused, with the size expected.
            return tf.ensure_shape(image, shape)

        images = tf.map_fn(decode, files, fn_output_signature=tf.uint8)
        return self.predict_levels(images)

    @_on_one_image_at_least
    def predict_agreed(self, images: tf.Tensor) -> Answer:
        probabilities = self._probabilities(images)
        lured = self._probabilities(self._lured(images))
        agreed = tf.equal(tf.argmax(probabilities, -1), tf.argmax(lured, -1))
        agreed = tf.logical_and(agreed, _are_finite(images, probabilities, lured))
        return {**self._answer(probabilities, agreed), "agreed": agreed}

    @_on_one_image_at_least
    def integrated(self, images: tf.Tensor) -> Answer:
        answers = _given(self._integrated)(images, training=False)
        return self._answer(answers, _are_finite(images, answers))

    @_on_one_image_at_least
    def analyze(self, images: tf.Tensor) -> Answer:
        probabilities, correlations = _given(self._both)(images, training=False)
        valid = _are_finite(images, probabilities)
        recovered = tf.argmin(correlations, axis=-1)
        return {
            **self._answer(probabilities, valid),
            **_judge(correlations, images, _given(self._subject.analyzer).thresholds),
            "recovered_class_id": self._class_id(recovered, valid),
            "recovered_label": self._label(recovered, valid),
        }

    def _lured(self, images: tf.Tensor) -> tf.Tensor:
        return _given(self._subject.lure)(images, training=False)

    def _probabilities(self, images: tf.Tensor) -> tf.Tensor:
        outputs = tf.cast(self._subject.model(images, training=False), tf.float32)
        return tf.nn.softmax(outputs) if self._subject.output == "logits" else outputs

    def _answer(self, probabilities: tf.Tensor, valid: tf.Tensor) -> Answer:
        class_id = tf.argmax(probabilities, axis=-1)
        return {
            "probabilities": tf.where(valid[:, tf.newaxis], probabilities, 0.0),
            "class_id": self._class_id(class_id, valid),
            "label": self._label(class_id, valid),
        }

    def _class_id(self, class_id: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        return tf.where(valid, class_id, tf.constant(NO_CLASS, tf.int64))

    def _label(self, class_id: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        names = tf.constant([*self._subject.class_names, ""])
        last = tf.constant(len(self._subject.class_names), tf.int64)
        return tf.gather(names, tf.where(valid, class_id, last))


def _given(part: _Part | None) -> _Part:
    if part is None:
        raise RuntimeError("The subject was not checked: a part of it is missing.")
    return part


def _judge(
    correlations: tf.Tensor, images: tf.Tensor, thresholds: Thresholds
) -> Answer:
    """What `ForensicAnalyzer.judge` says, in its float64."""
    w = tf.cast(correlations, tf.float64)
    statistics = tf.stack(
        [
            tf.reduce_max(w, axis=-1),
            -tf.reduce_min(w, axis=-1),
            tf.math.reduce_std(w, axis=-1),
        ],
        axis=-1,
    )
    centre, scale = (
        tf.constant(value, tf.float64)
        for value in (thresholds.centre, thresholds.scale)
    )
    limits = (thresholds.upper, -thresholds.lower, thresholds.deviation)
    fired = statistics > tf.constant(limits, tf.float64)
    score = tf.cast(tf.reduce_max((statistics - centre) / scale, axis=-1), tf.float32)
    # The analyzer refuses such an image; a server has to say something of it.
    in_range = tf.reduce_all(
        tf.logical_and(images >= 0.0, images <= 1.0), axis=(1, 2, 3)
    )
    return {
        "score": tf.where(in_range, score, tf.float32.max),
        "is_adversarial": tf.logical_or(
            tf.reduce_any(fired, axis=-1), tf.logical_not(in_range)
        ),
        "fired": fired,
    }


def _are_finite(*given: tf.Tensor) -> tf.Tensor:
    # Not a number has a largest class as well, the first.
    finite = [
        tf.reduce_all(tf.math.is_finite(one), axis=tuple(range(1, one.shape.rank)))
        for one in given
    ]
    return functools.reduce(tf.logical_and, finite)
