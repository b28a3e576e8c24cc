"""What every attack promises of its images, and how it says that it was not kept."""

import contextlib
import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks.loop import NON_FINITE

# Rounding of x + eps in float32, for pixels in [0, 1].
_TOLERANCE = 1e-6
# Of the length of a whole image's change, as a share of it.
_LENGTH_TOLERANCE = 1e-5


def check_result(
    who: str,
    clean: FloatArray,
    adversarial: FloatArray,
    ids: IntArray,
    *,
    linf_bound: float | None,
    l2_bound: float | None,
) -> None:
    """Refuses images that are not finite, or leave [0, 1] or their ball.

    Args:
        who: What made them, as the message is to call it.
        clean: `(batch, ...)`, float32: the clean images.
        adversarial: The same shape: what was made of them.
        ids: `(batch,)`: which example each is; the message names them.
        linf_bound: Radius of the L-infinity ball around each clean image, or `None`.
        l2_bound: Radius of the L2 ball, or `None`.

    Raises:
        RuntimeError: If they break the promise.
    """
    values = adversarial.reshape(len(adversarial), -1)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise RuntimeError(
            f"{who} gave images that are not finite, at the examples "
            f"{_listed(ids[~finite])}."
        )
    low, high = values.min(axis=1), values.max(axis=1)
    outside = (low < 0) | (high > 1)
    if outside.any():
        raise RuntimeError(
            f"{who} left [0, 1] at the examples {_listed(ids[outside])}: its images "
            f"reach from {low.min()} to {high.max()}."
        )
    change = values - clean.reshape(values.shape)
    if linf_bound is not None:
        reach = np.abs(change).max(axis=1)
        far = reach > linf_bound + _TOLERANCE
        if far.any():
            raise RuntimeError(
                f"{who} left its ball of radius {linf_bound} at the examples "
                f"{_listed(ids[far])}: a value moved by {reach.max()}."
            )
    if l2_bound is not None:
        length = np.linalg.norm(change, axis=1)
        rounding = _LENGTH_TOLERANCE * l2_bound + _TOLERANCE * np.sqrt(change.shape[1])
        far = length > l2_bound + rounding
        if far.any():
            raise RuntimeError(
                f"{who} left its L2 ball of radius {l2_bound} at the examples "
                f"{_listed(ids[far])}: an image moved by {length.max()}."
            )


def check_answers(who: str, outputs: FloatArray, ids: IntArray) -> None:
    """Refuses outputs that are not finite, of which no class is the answer.

    Args:
        who: What made the images, as the message is to call it.
        outputs: `(batch, num_classes)`: what the model makes of them.
        ids: `(batch,)`: which example each is; the message names them.

    Raises:
        RuntimeError: If there are any.
    """
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        raise RuntimeError(
            f"{who} gave images on which the model's outputs are not finite, at the "
            f"examples {_listed(ids[~finite])}."
        )


@contextlib.contextmanager
def naming_examples(who: str, *, of: str = "") -> Iterator[None]:
    """Says at which examples a gradient is not finite, if one within is not.

    Args:
        who: What takes the gradient, as the message is to call it.
        of: What the examples belong to, where they are not those of the call. Defaults
            to nothing.

    Yields:
        Nothing.

    Raises:
        RuntimeError: Instead of the error by which `watched` stops a compiled loop.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        # TensorFlow writes "...] [13 14]" in a graph and "...' 13, 14" outside.
        found = re.search(rf"{NON_FINITE}\W*([\d ,]*\d(\.\.\.)?)", error.message)
        if found is None:
            raise
        ids = found[1].replace(",", "")
        raise RuntimeError(f"{who}: {NON_FINITE} [{ids}]{of}.") from None


def _listed(ids: npt.NDArray[np.integer]) -> str:
    return np.array2string(ids, threshold=8, edgeitems=4, formatter={"int_kind": str})
