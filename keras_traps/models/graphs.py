"""Whether a model is what its layers say, and a model of a model's layers."""

import keras


def _functional() -> type[keras.Model]:
    image = keras.Input((1,))
    return type(keras.Model(image, image))


_KINDS = (_functional(), keras.Sequential)


def is_its_graph(model: keras.layers.Layer) -> bool:
    """Tells whether all that a model does is in the graph of its layers.

    Args:
        model: The model, or a layer, which has no such graph.

    Returns:
        Whether it is functional or sequential, of a class that does not change how it
        is called. A class with a `call` of its own may do more than the graph tells.
    """
    kind = type(model)
    return any(
        isinstance(model, plain)
        and kind.call is plain.call
        and kind.__call__ is plain.__call__
        for plain in _KINDS
    )


def as_graph(model: keras.Model, *, name: str) -> keras.Model:
    """Returns a functional model that computes the same under another name.

    Args:
        model: A built model with one input and one output.
        name: The name of what is returned.

    Returns:
        A model that shares the layers of `model` where these are all that it does, and
        else has `model` for its only layer.
    """
    if is_its_graph(model):
        return keras.Model(model.inputs[0], model.outputs[0], name=name)
    image = keras.Input(
        model.input_shape[1:], dtype=model.inputs[0].dtype, name=model.inputs[0].name
    )
    # A model that was made with lists answers with one.
    (answer,) = keras.tree.flatten(model(image))
    return keras.Model(image, answer, name=name)
