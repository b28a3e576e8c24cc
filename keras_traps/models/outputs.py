"""What a classifier returns: logits or probabilities."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_traps._checks import UNIT, Bounds, FloatArray, IntArray
from keras_traps._pixels import from_unit
from keras_traps.models.inference import is_its_graph, predict

Output = Literal["logits", "probabilities"]
"""`"logits"` go into a softmax; `"probabilities"` came out of one."""

AttackedOutput = Literal["logits", "probabilities", "scores"]
"""As `Output`, or `"scores"`: neither, but attacked as if they were logits."""


# The class, of no public name, that `keras.ops.sigmoid` puts into a graph.
_image = keras.Input((2,))
_SIGMOID = type(keras.Model(_image, ops.sigmoid(_image)).operations[-1])


def subtract_row_maximum(logits: keras.KerasTensor) -> keras.KerasTensor:
    """Shifts each row of logits so that its largest is 0; softmax is unchanged."""
    return logits - ops.max(logits, axis=-1, keepdims=True)


def check_classifier(
    model: keras.Model,
    output: str,
    *,
    known: tuple[str, ...] = get_args(Output),
    name: str = "classifier",
) -> int:
    """Refuses what is not a built classifier of images."""
    if output not in known:
        raise ValueError(
            f"Invalid value for argument `output`. Expected one of {known}. "
            f"Received: output={output!r}"
        )
    if not isinstance(model, keras.Model):
        kind = type(model)
        old = kind.__module__.startswith(("tf_keras.", "tensorflow.python.keras."))
        cure = " of Keras 3: build it again there, and give it the weights."
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected a Keras model"
            f"{cure if old else '.'} Received: {kind.__module__}.{kind.__name__}"
        )
    try:
        shape_in, shape_out = model.input_shape, model.output_shape
    except (AttributeError, ValueError):
        shape_in = shape_out = None
    several = isinstance(shape_out, list | dict) and len(shape_out) > 1
    if several or _is_named(model):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected one output; make a model "
            "of the one with the classes by `keras.Model(model.inputs[0], "
            f"model.outputs[0])`. Received: {model.name!r} with {len(model.outputs)} "
            f"outputs of the shapes {shape_out}"
        )
    if not (isinstance(shape_in, tuple) and isinstance(shape_out, tuple)):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a built model with one "
            "input and one output; a subclassed model is wrapped by "
            "`keras.Model(inputs, model(inputs))`. "
            f"Received: {model.name!r} with input shape {shape_in}"
        )
    if len(shape_in) not in (2, 3, 4) or None in shape_in[1:]:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a model of images of one "
            "known size; make one of that size by "
            "`image = keras.Input((224, 224, 3)); keras.Model(image, model(image))`. "
            f"Received: {model.name!r} with input shape {shape_in}"
        )
    if len(shape_out) != 2 or not shape_out[1]:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected outputs of shape "
            "(batch, num_classes), or (batch, 1) for two classes. Received: output "
            f"shape {shape_out}"
        )
    dtype = model.inputs[0].dtype
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a model of floating point "
            "images, for what is rounded to integers has no gradient: make one by "
            f"`keras.Input({tuple(shape_in[1:])})` and the layers behind the input. "
            f"Received: {model.name!r} with an input of dtype {dtype}"
        )
    if shape_out[1] > 1 and _ends_in_sigmoid(model):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected one class for each image, "
            "by a softmax or logits. Received a multi-label classifier: "
            f"{model.name!r} ends in {shape_out[1]} sigmoids."
        )
    return max(int(shape_out[1]), 2)


def _ends_in_sigmoid(model: keras.Model) -> bool:
    if not is_its_graph(model):
        return False
    # A sequential model has layers alone.
    last = getattr(model, "operations", model.layers)[-1]
    if isinstance(last, keras.Model):
        return _ends_in_sigmoid(last)
    activation = getattr(last, "activation", None)
    return activation is keras.activations.sigmoid or type(last) is _SIGMOID


def answers_of(outputs: npt.NDArray[Any], output: str) -> FloatArray:
    """Returns a column for each class, also of the one output of two classes."""
    if outputs.shape[1] > 1:
        return outputs
    other = 0 * outputs if output == "logits" else 1 - outputs
    return np.concatenate([other, outputs], axis=1)


def _is_named(model: keras.Model) -> bool:
    """Whether its output comes in a dict: the shape of a single one does not tell."""
    try:
        return isinstance(model.output, Mapping)
    except (AttributeError, ValueError):
        # A sequential model that was built by a call.
        return False


def output_of(outputs: FloatArray) -> Output:
    """Tells what a batch of outputs looks like."""
    # Half precision keeps about three digits.
    if outputs.shape[1] == 1:
        return "probabilities" if ((outputs >= 0) & (outputs <= 1)).all() else "logits"
    sums_to_1 = np.allclose(outputs.sum(axis=1), 1, atol=1e-2)
    return "probabilities" if (outputs >= 0).all() and sums_to_1 else "logits"


def check_outputs(outputs: FloatArray, output: str) -> None:
    """Refuses a batch of outputs that are not what was declared."""
    if not np.isfinite(outputs).all():
        raise ValueError(
            "The classifier's outputs hold numbers that are not finite: check its "
            "weights and its preprocessing."
        )
    inside = _are_inside(outputs)
    found: str = output_of(outputs)
    if outputs.shape[1] == 1:
        # A few logits may all lie between 0 and 1.
        found = output if inside else found
    if found != output:
        row = np.array2string(outputs[0], precision=3, threshold=8)
        raise ValueError(
            f"Invalid value for argument `output`. The outputs do not look like "
            f"{output}: those of the first image are {row}, sum "
            f"{outputs[0].sum():.4g}. Received: output={output!r}"
        )


def check_exclusive(outputs: FloatArray, name: str) -> None:
    """Refuses outputs of many images that look like those of several sigmoids."""
    if outputs.shape[1] > 1 and _are_inside(outputs) and output_of(outputs) == "logits":
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected logits, or probabilities "
            "that sum to 1. Received numbers that are all between 0 and 1 and sum to "
            f"{outputs[0].sum():.4g} for the first image, as those of a multi-label "
            "classifier are."
        )


def _are_inside(outputs: FloatArray) -> bool:
    return bool(((outputs > 0) & (outputs < 1)).all())


# Cohen's kappa, the share of what is right beyond chance. Labels in a wrong order and
# weights that are not trained give 0, and any classifier of use more than this.
_LEAST_KAPPA = 0.1


def chance_of(answers: IntArray, labels: IntArray, num_classes: int) -> float:
    """Returns how often answers would be right that are as many, but drawn by lot."""
    shares = np.bincount(labels, minlength=num_classes) / len(labels)
    if shares.max() == 1:
        # Of images of one class, answers of that class are no chance.
        return 1 / num_classes
    return float(shares @ np.bincount(answers, minlength=num_classes)) / len(answers)


def is_near_chance(accuracy: float, chance: float) -> bool:
    """Tells whether a classifier is right hardly more often than by chance."""
    return chance < 1 and (accuracy - chance) / (1 - chance) < _LEAST_KAPPA


def check_answers(
    answers: IntArray, labels: IntArray | None, num_classes: int, bounds: Bounds
) -> float | None:
    """Refuses answers that are no better than chance; returns the accuracy.

    Without labels, refuses answers that are nearly all of one class or two.
    """
    advice = (
        f"Images are taken to have pixels in [{bounds[0]:g}, {bounds[1]:g}]. If the "
        "model was trained on another range, pass images of that range and `bounds`; "
        "if it needs `preprocess_input`, see `keras_traps.models.wrap`."
    )
    if labels is None:
        counts = np.bincount(answers, minlength=num_classes)
        few = 1 if num_classes == 2 else 2
        share = np.sort(counts)[-few:].sum() / len(answers)
        if share > (0.99 if num_classes == 2 else 0.95):
            raise ValueError(
                "Invalid value for argument `classifier`. Expected answers of many "
                f"classes. Received {few} of {num_classes} on {share:.1%} of the "
                f"images. {advice} If the images are so, pass their `labels`."
            )
        return None
    accuracy = float((answers == labels).mean())
    chance = chance_of(answers, labels, num_classes)
    if is_near_chance(accuracy, chance):
        raise ValueError(
            "Invalid value for argument `labels`. Expected a classifier that is right "
            f"more often than chance, {chance:.1%}. Received one that is right on "
            f"{accuracy:.1%} of the images: it is not trained, or the labels are in "
            f"another order. {advice}"
        )
    return accuracy


def check_on_noise(
    model: keras.Model, output: Output | None, bounds: Bounds = UNIT
) -> Output:
    """Refuses a classifier that does not return what is declared; returns what it does.

    Where nothing is declared, that is what its outputs look like.
    """
    noise = np.random.default_rng(0).random((8, *model.input_shape[1:]), np.float32)
    outputs = predict(model, from_unit(noise, bounds))
    found = output or output_of(outputs)
    if output is None and outputs.shape[1] == 1 and found == "probabilities":
        # A few logits may all lie between 0 and 1.
        found = "probabilities" if _ends_in_sigmoid(model) else "logits"
    check_outputs(outputs, found)
    return found
