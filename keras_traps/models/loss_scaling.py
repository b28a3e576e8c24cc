"""Loss scaling where a gradient comes through layers that compute in float16."""

from collections.abc import Iterable

import keras

from keras_traps.models.inner_layers import inner_layers


def scaling_optimizer(
    optimizer: str | keras.optimizers.Optimizer, parts: Iterable[keras.layers.Layer]
) -> str | keras.optimizers.Optimizer:
    """Lets an optimizer scale its loss where small gradients would round to 0.

    Args:
        optimizer: As `keras.Model.compile` takes it.
        parts: The models and layers that the gradient comes through.

    Returns:
        The optimizer; where a part, or a layer within one, computes in float16, a
        `LossScaleOptimizer` of it.
    """
    layers = (layer for part in parts for layer in (part, *inner_layers(part)))
    if not any(layer.compute_dtype == "float16" for layer in layers):
        return optimizer
    found = keras.optimizers.get(optimizer)
    if isinstance(found, keras.optimizers.LossScaleOptimizer):
        return found
    return keras.optimizers.LossScaleOptimizer(found)
