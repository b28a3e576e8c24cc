"""Whether an attack has anything to follow where a softmax was not found."""

import keras

from keras_traps._checks import FloatArray
from keras_traps.models.inference import predict
from keras_traps.models.logits import SMALLEST, is_logarithm


def check_unsaturated(
    model: keras.Model, attacked: keras.Model, images: FloatArray, *, batch_size: int
) -> None:
    """Refuses images at which only probabilities are left, and one of them is 0.

    There the logarithm is cut off and its gradient exactly 0: an attack would fail
    without a word, and the classifier look strong.

    Args:
        model: A classifier that returns probabilities.
        attacked: What `logits_model` made of it.
        images: `(batch, ...)`, float32: the images to attack.
        batch_size: How many images at once.

    Raises:
        ValueError: If `model`'s softmax was not found and a probability is that small.
    """
    # Elsewhere the images need not all be looked at.
    if not is_logarithm(attacked):
        return
    lost = predict(model, images, batch_size=batch_size).min(axis=1) < SMALLEST
    if lost.any():
        raise ValueError(
            "Invalid value for argument `output`. Expected logits, or probabilities "
            f"of a softmax that is found. That of {model.name!r} was not, and at "
            f"{lost.sum()} of {len(images)} images, the first at index "
            f"{int(lost.argmax())}, a probability is rounded to 0: gradients vanish "
            "there, and an attack fails however weak the classifier is. Pass a model "
            "of the logits with output=\"logits\". Received: output='probabilities'"
        )
