"""A hash of a model's weights."""

import hashlib

import keras


def weights_sha256(model: keras.Model) -> str:
    """Returns a hash of a model's weights.

    Args:
        model: A built model.

    Returns:
        SHA-256 over every weight's bytes, in the order of `model.weights`, as
        hexadecimal.
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(keras.ops.convert_to_numpy(weight).tobytes())
    return digest.hexdigest()
