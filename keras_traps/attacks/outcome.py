"""What the attacked model makes of an attack's images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks.promises import check_answers


class Outcome(NamedTuple):
    """What became of each example.

    Args:
        images: The shape of the clean images.
        answers: `(batch,)`, int64: the classes that the model answers with.
        success: `(batch,)`, bool: whether it is the class aimed at, or not the class to
            leave.
    """

    images: FloatArray
    answers: IntArray
    success: npt.NDArray[np.bool_]


def judge(
    ask: Callable[[FloatArray], FloatArray],
    clean: FloatArray,
    images: FloatArray,
    ids: IntArray,
    goals: IntArray,
    *,
    who: str,
    targeted: bool,
    searches: bool,
) -> Outcome:
    """Asks the attacked model about an attack's images.

    Args:
        ask: From images to the model's outputs, `(images, num_classes)`.
        clean: `(batch, height, width, channels)`, float32: the clean images.
        images: The same shape: what was made of them.
        ids: `(batch,)`: which example each is.
        goals: `(batch,)`, int64: the classes to aim at, or those to leave.
        who: What made the images, as a message is to call it.
        targeted: Whether `goals` are to be aimed at.
        searches: Whether an example that failed is to be the clean image.

    Returns:
        The images, with what the model answers to them.

    Raises:
        RuntimeError: If an output is not finite; the message names the examples.
    """
    outputs = ask(images)
    check_answers(who, outputs, ids)
    answers = outputs.argmax(axis=1)
    lost = ((answers == goals) != targeted) & (images != clean).any(axis=(1, 2, 3))
    # A search has seen a success, but by a lead that rounding may take: in a batch of
    # another size, or in a softmax of half precision.
    if searches and lost.any():
        images = np.where(lost[:, None, None, None], clean, images)
        answers[lost] = ask(clean[lost]).argmax(axis=1)
    return Outcome(images, answers, (answers == goals) == targeted)
