"""What a classifier returns: logits or probabilities."""

from collections.abc import Mapping
from typing import Literal, get_args

import keras
import numpy as np
from keras import ops

from keras_traps._checks import FloatArray
from keras_traps.models.inference import predict

Output = Literal["logits", "probabilities"]
"""`"logits"` go into a softmax; `"probabilities"` came out of one."""

AttackedOutput = Literal["logits", "probabilities", "scores"]
"""As `Output`, or `"scores"`: neither, but attacked as if they were logits."""


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
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected a Keras model. "
            f"Received: {type(model).__name__}"
        )
    try:
        shape_in, shape_out = model.input_shape, model.output_shape
    except (AttributeError, ValueError):
        shape_in = shape_out = None
    known_shapes = isinstance(shape_in, tuple) and isinstance(shape_out, tuple)
    if not known_shapes or _is_named(model):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a built model with one "
            "input and one output; a subclassed model is wrapped by "
            "`keras.Model(inputs, model(inputs))`. "
            f"Received: {model.name!r} with input shape {shape_in}"
        )
    if len(shape_out) != 2 or shape_out[1] is None or shape_out[1] < 2:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected outputs of shape "
            "(batch, num_classes) with at least 2 classes. Received: output shape "
            f"{shape_out}"
        )
    # Pixels in [0, 1] would all become 0.
    dtype = model.inputs[0].dtype
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a model of floating point "
            f"images. Received: {model.name!r} with an input of dtype {dtype}"
        )
    return int(shape_out[1])


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
    sums_to_1 = np.allclose(outputs.sum(axis=1), 1, atol=1e-2)
    return "probabilities" if (outputs >= 0).all() and sums_to_1 else "logits"


def check_outputs(outputs: FloatArray, output: str) -> None:
    """Refuses a batch of outputs that are not what was declared."""
    if not np.isfinite(outputs).all():
        raise ValueError(
            "The classifier's outputs hold numbers that are not finite: check its "
            "weights and its preprocessing."
        )
    if output_of(outputs) != output:
        row = np.array2string(outputs[0], precision=3, threshold=8)
        raise ValueError(
            f"Invalid value for argument `output`. The outputs do not look like "
            f"{output}: those of the first image are {row}, sum "
            f"{outputs[0].sum():.4g}. Received: output={output!r}"
        )


def check_on_noise(model: keras.Model, output: str) -> None:
    """Refuses a classifier that does not return what is declared."""
    # A size that is not known may be any.
    shape = tuple(size or 32 for size in model.input_shape[1:])
    noise = np.random.default_rng(0).random((8, *shape), np.float32)
    check_outputs(predict(model, noise), output)
