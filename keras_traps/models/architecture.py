"""A hash of how a model is made, beside that of its weights."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from typing import Any

import keras

# What says how a model is trained, or follows from the rest.
_LEFT_OUT = ("compile_config", "build_config")


def architecture_sha256(model: keras.Model) -> str:
    """Returns a hash of what a model computes, but for its weights.

    Args:
        model: A built model.

    Returns:
        SHA-256 over its layers, their settings and how they are connected, as
        hexadecimal. Names do not count, so that a model that is made twice, or loaded
        from its file, has the same. The code of `Lambda` layers and of a user's own
        classes is not seen; of a model with a layer that has no `get_config`, no more
        than the classes of its layers are.
    """
    try:
        with warnings.catch_warnings():
            # Keras warns of lambdas, which it could not load again.
            warnings.simplefilter("ignore")
            found = _without_names(keras.saving.serialize_keras_object(model), {})
    except Exception:  # What a user's own get_config raises, or NotImplementedError.
        found = [type(layer).__qualname__ for layer in model.layers]
    plain = json.dumps(found, sort_keys=True, default=lambda one: type(one).__name__)
    return hashlib.sha256(plain.encode()).hexdigest()


def _without_names(node: Any, places: Mapping[str, int]) -> Any:
    """Returns a part of a config with layers known by their places in the model.

    Keras numbers its automatic names by what the process has made before.
    """
    if isinstance(node, list | tuple):
        match node:
            case [str(name), int(), int()] if name in places:
                # A tensor: which output of which call of the layer.
                return [places[name], *node[1:]]
        return [_without_names(part, places) for part in node]
    if not isinstance(node, dict):
        return node
    match node:
        case {"class_name": "__lambda__"}:
            # The bytes of equal code are not always the same.
            return "lambda"
        case {"class_name": str(kind), "config": {"name": _, **config}} if (
            # A policy's name, such as "float32", is all that it is.
            not kind.endswith("DTypePolicy")
        ):
            node = {key: node[key] for key in node if key != "name"}
            node["config"] = config
        case {"layers": [*layers]}:
            places = {
                layer["name"]: place
                for place, layer in enumerate(layers)
                if isinstance(layer, dict) and "name" in layer
            }
    return {
        key: _without_names(part, places)
        for key, part in node.items()
        # A newer Keras may write more settings that are not set.
        if key not in _LEFT_OUT and part is not None
    }
