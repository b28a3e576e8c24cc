"""Scores, losses and gradients of C, W and M, measured over images; Figure 5."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from figures.drawing import Result, draw_norms, quantiles
from keras_traps._checks import FloatArray, IntArray
from keras_traps.attractors import decoder_of
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence
from keras_traps.models.logits import logits_model
from keras_traps.models.outputs import AttackedOutput

Scores = Callable[[tf.Tensor], tf.Tensor]
"""From images `(batch, ...)` to `(batch, num_classes)`; a decoder layer is one too."""

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From images and classes `(batch,)` to the loss of each image, `(batch,)`."""


def scores_of(model: keras.Model, output: AttackedOutput) -> Scores:
    """Returns C or M as a function whose gradient does not saturate: of its logits."""
    logits = logits_model(model, output)
    return lambda images: tf.cast(logits(images, training=False), tf.float32)


def both_answers(trapped: keras.Model) -> Scores:
    """Returns what C and M answer, `(batch, 2, num_classes)`, from one run of C."""
    alone = trapped.get_layer("normalized_sum").input[0]
    pair = keras.Model(trapped.input, [alone, trapped.output])

    def scores(images: tf.Tensor) -> tf.Tensor:
        found = (tf.cast(part, tf.float32) for part in pair(images, training=False))
        return tf.stack(list(found), axis=1)

    return scores


def soft_label_loss(scores: Scores) -> Loss:
    """Returns J(x, y), the cross-entropy of the softmax of the scores; Section IV-B."""

    def loss(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        values = scores(images)
        given = tf.one_hot(
            classes, tf.shape(values)[-1], on_value=True, off_value=False
        )
        rivals = tf.where(given, values.dtype.min / 4, values)
        own = tf.gather(values, classes, axis=-1, batch_dims=1)
        # So the gradient keeps its digits in float32 where the model is sure.
        return tf.nn.softplus(tf.reduce_logsumexp(rivals, axis=-1) - own)

    return loss


def gradient(loss: Loss, images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Returns the gradient of a loss by the images, inside a graph; 0 for none."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        value = loss(images, classes)
    return tape.gradient(value, images, unconnected_gradients="zero")


def cosine(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Returns the cosine similarity along the last axis; NaN where a vector is 0."""
    return tf.reduce_sum(_unit(first) * _unit(second), axis=-1)


def output_norms(scores: Scores, images: FloatArray) -> FloatArray:
    """Measures the 1-norm of a model's output, Figure 5 (a)."""
    return map_batches(lambda batch: _norm(scores(batch)), images)


def gradient_norms(scores: Scores, images: FloatArray, labels: IntArray) -> FloatArray:
    """The 1-norm of the gradient of the soft-label loss J(x, y), Figure 5 (b)."""
    loss = soft_label_loss(scores)
    return map_batches(lambda *batch: _norm(gradient(loss, *batch)), images, labels)


def map_batches(
    graph: Callable[..., Any], *arrays: npt.NDArray[Any], batch_size: int = 256
) -> Any:
    """Applies a graph to arrays of one length, batch by batch, with one trace."""
    compiled = tf.function(
        graph,
        input_signature=[
            tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in arrays
        ],
        autograph=False,
    )
    parts = [
        compiled(*(tf.constant(array[i : i + batch_size]) for array in arrays))
        for i in range(0, len(arrays[0]), batch_size)
    ]
    return tf.nest.map_structure(lambda *each: np.concatenate(each), *parts)


def figure_5(defence: Defence, test: Dataset) -> Result:
    """Compares outputs and gradients of C and of W on clean images."""
    classifier = scores_of(defence.classifier, defence.output)
    decoder = decoder_of(defence.trapped)

    def apart(images: tf.Tensor) -> tf.Tensor:
        w = decoder(images)
        return w - tf.reduce_mean(w, axis=-1, keepdims=True)

    both: dict[str, Scores] = {"classifier": classifier, "decoder": decoder}
    loud = {**both, "decoder_apart": apart}
    steep = {**both, "trapped": scores_of(defence.trapped, "scores")}
    outputs = {name: output_norms(of, test.images) for name, of in loud.items()}
    gradients = {
        name: gradient_norms(of, test.images, test.labels) for name, of in steep.items()
    }
    picture = draw_norms(
        *({"C": of["classifier"], "W": of["decoder"]} for of in (outputs, gradients))
    )
    return Result(
        figure="figure5",
        dataset=test.name,
        title=f"Figure 5 on {test.name}: outputs and gradients of C and W",
        pictures={"figure5": picture},
        numbers={
            "images": len(test),
            "output": {key: quantiles(of) for key, of in outputs.items()},
            "gradient": {key: quantiles(of) for key, of in gradients.items()},
            "output_larger_in_c": np.mean(outputs["classifier"] > outputs["decoder"]),
            "gradient_larger_in_w": np.mean(
                gradients["decoder"] > gradients["classifier"]
            ),
        },
    )


def _norm(values: tf.Tensor) -> tf.Tensor:
    # Reshaped first, for a gradient's rank may be unknown while it is traced.
    rows = tf.reshape(values, (tf.shape(values)[0], -1))
    return tf.reduce_sum(tf.abs(rows), axis=1)


def _unit(vector: tf.Tensor) -> tf.Tensor:
    # Brought to 1 first: the squares of a vanishing gradient are 0 in float32.
    largest = tf.reduce_max(tf.abs(vector), axis=-1, keepdims=True)
    scaled = vector / largest
    return scaled / tf.norm(scaled, axis=-1, keepdims=True)
