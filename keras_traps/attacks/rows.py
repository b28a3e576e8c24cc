"""What compiled loops do with the rows of a batch: only those go on that have to."""

from typing import NamedTuple, TypeVar

import tensorflow as tf

Rows = TypeVar("Rows")


class Finished(NamedTuple):
    """What became of each example of a batch.

    Args:
        images: The shape of the batch's images.
        iterations: `(batch,)`, int32: how many steps were spent on each.
    """

    images: tf.Tensor
    iterations: tf.Tensor

    def write(
        self, position: tf.Tensor, images: tf.Tensor, iterations: tf.Tensor
    ) -> "Finished":
        """Puts down what became of some examples.

        Args:
            position: `(rows,)`, int32: where in the batch they are.
            images: `(rows, ...)`: their results.
            iterations: `(rows,)` or scalar, int32: how many steps were spent on each.

        Returns:
            All results then.
        """
        steps = tf.broadcast_to(iterations, tf.shape(position))
        return Finished(
            tf.tensor_scatter_nd_update(self.images, position[:, None], images),
            tf.tensor_scatter_nd_update(self.iterations, position[:, None], steps),
        )


def only(mask: tf.Tensor, rows: Rows) -> Rows:
    """Returns some of the rows.

    Args:
        mask: `(rows,)`, bool: which.
        rows: Tensors with a first axis of rows, in any structure.

    Returns:
        The same structure of those rows.
    """
    index = tf.where(mask)[:, 0]
    return tf.nest.map_structure(lambda part: tf.gather(part, index), rows)
