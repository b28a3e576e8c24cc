"""What goes on within a classifier: the outputs of its layers, beside its answer."""

from collections.abc import Sequence

import keras

from keras_traps.models.forms import two_columns
from keras_traps.models.inference import is_its_graph
from keras_traps.models.outputs import Output, check_classifier

_NONLINEAR = tuple(getattr(keras.layers, one) for one in ("ReLU", "LeakyReLU", "ELU"))
_PLAIN = (None, keras.activations.linear, keras.activations.softmax)


def copy_of(classifier: keras.Model, output: Output) -> keras.Model:
    """Returns a classifier of the same layers and weights, to be trained on."""
    check_classifier(classifier, output)
    if not is_its_graph(classifier):
        raise _invalid("functional or sequential model", classifier)
    copy = keras.models.clone_model(classifier)
    copy.set_weights(classifier.get_weights())
    return copy


def inner_model(
    classifier: keras.Model,
    names: Sequence[str],
    *,
    output: Output,
    argument: str,
) -> keras.Model:
    """Makes a model from images to what layers return, and an answer for each class.

    Without names, what the last layer with weights is given.
    """
    if not is_its_graph(classifier):
        raise _invalid("functional or sequential model", classifier)
    known = [one for one in classifier.layers if not isinstance(one, keras.Model)]
    try:
        if names:
            inner = [classifier.get_layer(name).output for name in names]
        else:
            inner = [_last_dense(classifier).input]
        answer = classifier.outputs[0]
        if answer.shape[-1] == 1:
            answer = two_columns(answer, output)
        return keras.Model(classifier.inputs[0], [*inner, answer])
    except (AttributeError, ValueError) as error:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected layers of "
            f"{classifier.name!r}: {', '.join(repr(one.name) for one in known)}. "
            f"Received: {argument}={names or None!r}"
        ) from error


def activation_layers(classifier: keras.Model) -> list[str]:
    """Lists the layers that end in a non-linear function, but for the answer."""
    return [
        layer.name
        for layer in getattr(classifier, "layers", ())
        if layer.output is not classifier.outputs[0] and _is_nonlinear(layer)
    ]


def _is_nonlinear(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, _NONLINEAR):
        return True
    return getattr(layer, "activation", None) not in _PLAIN


def _last_dense(classifier: keras.Model) -> keras.layers.Layer:
    last = next(one for one in reversed(classifier.layers) if one.weights)
    if not isinstance(last, keras.layers.Dense):
        raise ValueError(f"{last.name!r} is no dense layer")
    return last


def _invalid(expected: str, classifier: keras.Model) -> ValueError:
    return ValueError(
        f"Invalid value for argument `classifier`. Expected a {expected}, whose layers "
        f"can be looked into. Received: {type(classifier).__name__}"
    )
