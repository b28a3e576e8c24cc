"""Runs a graph over images, batch by batch, with one trace."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import check_count

Graph = Callable[..., tuple[tf.Tensor, ...]]
"""From one batch of each array to tensors whose first axis is the batch."""


def map_batches(
    graph: Graph, *arrays: npt.NDArray[Any], batch_size: int
) -> tuple[npt.NDArray[Any], ...]:
    """Applies a graph to arrays of one length.

    Beside the arrays and what is returned it holds one batch at a time.

    Args:
        graph: What to apply; traced once, for any batch size.
        *arrays: `(count, ...)` each.
        batch_size: How many rows at once.

    Returns:
        What the graph returns, for all rows.

    Raises:
        ValueError: If `batch_size` is not an integer of at least 1.
    """
    check_count("batch_size", batch_size)
    compiled = tf.function(
        graph,
        input_signature=[
            tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in arrays
        ],
        autograph=False,
    )
    parts = [
        [
            tensor.numpy()
            for tensor in compiled(
                *(tf.constant(array[start : start + batch_size]) for array in arrays)
            )
        ]
        for start in range(0, len(arrays[0]), batch_size)
    ]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
