"""What a training of P is watched by: running means over the batches of an epoch."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf


class RunningMeasures:
    """The loss, the agreement with M, and the accuracy where there are labels."""

    def __init__(self) -> None:
        self._means = {
            name: keras.metrics.Mean(name) for name in ("loss", "agreement", "accuracy")
        }

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The means as Keras metrics, which it resets before each epoch."""
        return list(self._means.values())

    def update(
        self,
        loss: tf.Tensor,
        logits: tf.Tensor,
        answers: Mapping[str, tf.Tensor],
        labels: tf.Tensor | None,
    ) -> dict[str, Any]:
        """Counts a batch.

        Args:
            loss: Its mean loss, a scalar.
            logits: What M∘P returns, `(batch, num_classes)`.
            answers: M's own answers, `"answer"` of shape `(batch,)` among them.
            labels: The true classes, `(batch,)`, where they are known.

        Returns:
            The means so far by name; no `"accuracy"` without labels.
        """
        classes = tf.argmax(logits, axis=-1, output_type=tf.int32)
        count = tf.shape(classes)[0]
        self._means["loss"].update_state(loss, sample_weight=count)
        known = {"agreement": answers["answer"], "accuracy": labels}
        for name, right in known.items():
            if right is not None:
                same = tf.equal(classes, tf.cast(right, tf.int32))
                self._means[name].update_state(same)
        return {
            name: mean.result()
            for name, mean in self._means.items()
            if name != "accuracy" or labels is not None
        }
