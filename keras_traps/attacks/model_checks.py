"""Whether a model is one that attacks can work on, said before any work."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.models.inference import inner_layers, predict
from keras_traps.models.logits import SMALLEST, is_logarithm
from keras_traps.models.outputs import answers_of


def check_channels_last(model: keras.Model, *, name: str) -> None:
    """Refuses a model of which a layer takes the channels before height and width."""
    if len(model.input_shape) < 3:
        raise ValueError(
            f"Invalid value for argument `model`. {name} goes by the height and width "
            f"of images. Received: {model.name!r}, whose images are flat, with input "
            f"shape {model.input_shape}"
        )
    for layer in inner_layers(model):
        if getattr(layer, "data_format", None) == "channels_first":
            raise ValueError(
                f"Invalid value for argument `model`. {name} goes by the height and "
                "width of images: expected layers with data_format='channels_last'. "
                f"Received: {model.name!r}, whose layer {layer.name!r} has "
                "data_format='channels_first'"
            )


def check_unsaturated(
    model: keras.Model, attacked: keras.Model, images: FloatArray, *, batch_size: int
) -> None:
    """Refuses images at which only probabilities are left, and one of them is 0.

    There the logarithm is cut off and its gradient exactly 0: an attack would fail
    without a word. `attacked` is what `logits_model` made of `model`.
    """
    # Elsewhere the images need not all be looked at.
    if not is_logarithm(attacked):
        return
    answers = predict(model, images, batch_size=batch_size)
    lost = answers_of(answers, "probabilities").min(axis=1) < SMALLEST
    if lost.any():
        raise ValueError(
            "Invalid value for argument `output`. Expected logits, or probabilities "
            f"of a softmax that is found. That of {model.name!r} was not, and at "
            f"{lost.sum()} of {len(images)} images, the first at index "
            f"{int(lost.argmax())}, a probability is rounded to 0: gradients vanish "
            "there, and an attack fails however weak the classifier is. Pass a model "
            "of the logits with output=\"logits\". Received: output='probabilities'"
        )


def check_differentiable(model: keras.Model) -> None:
    """Refuses a model that has no gradient, and names the first layer without one."""
    image = tf.fill((1, *model.input_shape[1:]), 0.5)
    with tf.GradientTape() as tape:
        tape.watch(image)
        output = model(image, training=False)
    if tape.gradient(output, image) is None:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model with a gradient. "
            f"Received: {model.name!r}, whose gradient is None"
            f"{_culprit(model, image)}. An attack that needs none is SPSA."
        )


Call = Callable[..., Any]


@contextlib.contextmanager
def changed_calls(
    operations: Iterable[keras.Operation],
    change: Callable[[keras.Operation, Call], Call],
) -> Iterator[None]:
    """Has layers, or operations, call what `change` makes of them and their `call`."""
    changed = list(dict.fromkeys(operations))
    for operation in changed:
        # Beside Keras' own bookkeeping of attributes, and gone afterwards.
        vars(operation)["call"] = change(operation, operation.call)
    try:
        yield
    finally:
        for operation in changed:
            del vars(operation)["call"]


def _culprit(model: keras.Model, image: tf.Tensor) -> str:
    made: list[tuple[keras.Operation, Any]] = []

    def noting(operation: keras.Operation, call: Call) -> Call:
        def called(*arguments: Any, **more: Any) -> Any:
            made.append((operation, outputs := call(*arguments, **more)))
            return outputs

        return called

    within = [model, *inner_layers(model)]
    operations = [part for one in within for part in getattr(one, "operations", [one])]
    with (
        tf.GradientTape(persistent=True) as tape,
        changed_calls((part for part in operations if part is not model), noting),
    ):
        tape.watch(image)
        model(image, training=False)
    for operation, outputs in made:
        tensors = [one for one in tf.nest.flatten(outputs) if tf.is_tensor(one)]
        values = [one for one in tensors if one.dtype.is_floating]
        if tape.gradient(values, image) is None:
            kind = "layer" if isinstance(operation, keras.layers.Layer) else "operation"
            return f" from {kind} {operation.name!r} on"
    return ""
