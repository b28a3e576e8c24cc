"""A trapdoored model whose gradients do not lead to its trapdoors: Section IV-C3.

It meets the goals that a trapdoor is trained for: right answers on clean images, and
the trapdoor's class on images that hold one. Attacks on it are not detected all the
same, because on clean images its gradient is that of the classifier.
"""

import dataclasses
import math

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from keras_traps import ops
from keras_traps._checks import (
    FloatArray,
    IntArray,
    check_images,
    check_labels,
    check_share,
)
from keras_traps.models.graphs import as_graph
from keras_traps.models.inference import predict
from keras_traps.models.logits import logits_model
from keras_traps.models.outputs import Output, check_classifier, check_outputs
from keras_traps.ops.codes import MessageKind

# The detector separates this share of clean from this share of trapdoored images.
_TAIL = 0.001
_LARGEST_OUTPUT = 10.0


@dataclasses.dataclass(frozen=True)
class Counterexample:
    """The model of equation 1 with its parts; `make_counterexample` makes one.

    Args:
        model: M = D W + (1 - D) C, from images to `(batch, num_classes)`, float32, to
            be attacked as logits.
        n1: N1 = D W, the same input and output.
        n2: N2 = (1 - D) C.
        correlations: The inner products of an image, less its mean brightness, with
            the trapdoors' signs, divided by the number of pixels; the same input,
            `(batch, num_classes)`. W maps them.
        decoder: W, the trapdoor decoder.
        detector: D, the trapdoor detector, `(batch, 1)`, in [0, 1].
        trapdoors: `(num_classes, ...)`, float32: what is added to an image, of values
            +amplitude and -amplitude.
    """

    model: keras.Model
    n1: keras.Model
    n2: keras.Model
    correlations: keras.Model
    decoder: keras.Model
    detector: keras.Model
    trapdoors: FloatArray

    def plant(self, images: npt.ArrayLike, classes: npt.ArrayLike) -> FloatArray:
        """Adds trapdoors to images.

        Args:
            images: `(images, ...)`, floating point, pixels in [0, 1].
            classes: `(images,)`, integers: whose trapdoor each is to hold.

        Returns:
            The images with trapdoors, float32, cut to [0, 1].

        Raises:
            TypeError: If images are integers, or classes are not.
            ValueError: If images or classes do not fit.
        """
        array = check_images(images, self.trapdoors.shape[1:])
        given = check_labels(classes, len(array), len(self.trapdoors), name="classes")
        return np.clip(array + self.trapdoors[given], 0, 1)


def make_counterexample(
    classifier: keras.Model,
    images: npt.ArrayLike,
    *,
    output: Output,
    amplitude: float,
    steepness: float = 20.0,
    messages: MessageKind = "random",
    seed: int = 0,
) -> Counterexample:
    """Makes the trapdoored model of Section IV-C3 out of a classifier.

    The trapdoor of a class is an additive watermark: one of two values for every
    pixel, drawn from the seed. W is a tanh of an image's inner products with them, the
    paper's "transformation similar to equation (3)". D is a sigmoid of the largest
    inner product. Both are set from clean images and the same images with trapdoors;
    nothing is trained.

    Args:
        classifier: A built Keras model from images to `(batch, num_classes)`.
        images: `(images, ...)`, floating point, pixels in [0, 1]: clean images.
        output: What the classifier returns. Its logits enter the sum.
        amplitude: How much a trapdoor changes a pixel, between 0 and 1.
        steepness: D is sigmoid(-steepness) where 0.1 % of clean images lie above, and
            sigmoid(steepness) where 0.1 % of those with a trapdoor lie below. Above
            0. Defaults to `20.0`.
        messages: How the trapdoors are drawn. A `"balanced"` one correlates less with
            clean images, and more of what an attack adds by chance shows. Defaults to
            `"random"`.
        seed: Seed of the trapdoors. Defaults to `0`.

    Returns:
        The model with its parts, which share the layers of `classifier`.

    Raises:
        TypeError: If `classifier` is not a Keras model, or images are integers.
        ValueError: If an argument is out of its range, the outputs are not what
            `output` declares, or the amplitude is too small for D to tell the two
            kinds of images apart.

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Section IV-C3, Figure 3, equation 1.
    """
    num_classes = check_classifier(classifier, output)
    clean = check_images(images, classifier.input_shape[1:])
    check_share(amplitude, name="amplitude")
    if not (math.isfinite(steepness) and steepness > 0):
        raise ValueError(
            "Invalid value for argument `steepness`. Expected a finite number above 0. "
            f"Received: steepness={steepness}"
        )
    check_outputs(predict(classifier, clean), output)

    shape = clean.shape[1:]
    bits = ops.draw_messages(shape, num_classes, seed=seed, kind=messages)
    signs = 2.0 * bits.astype(np.float32) - 1.0
    trapdoors = np.float32(amplitude) * signs.reshape(num_classes, *shape)

    inputs = keras.Input(shape, name="images")
    # An attack brightens a black image, whatever it follows: that is not to count.
    centred = signs - signs.mean(axis=1, keepdims=True)
    correlate = _fixed_dense((centred / signs.shape[1]).T, name="correlations")
    # Float32 whatever the dtype policy: a half-precision D is 0 on clean images.
    correlated = correlate(layers.Flatten(dtype="float32", name="pixels")(inputs))
    correlations = keras.Model(inputs, correlated, name="correlations")
    without, planted = _largest_correlations(correlations, clean, trapdoors)
    low = float(np.quantile(without, 1 - _TAIL))
    high = float(np.quantile(planted, _TAIL))
    if not high > low:
        raise ValueError(
            "Invalid value for argument `amplitude`. Expected one at which images with "
            "a trapdoor correlate more than clean ones: the lowest 0.1 % of the former "
            f"lie below {high:.3g}, the highest of the latter above {low:.3g}. "
            f"Received: amplitude={amplitude}"
        )

    scale = 1.0 / float(np.median(planted))
    bounded = layers.Activation("tanh", dtype="float32", name="tanh")(
        layers.Rescaling(scale, dtype="float32", name="to_one")(correlated)
    )
    w = layers.Rescaling(_LARGEST_OUTPUT, dtype="float32", name="decoder")(bounded)
    slope = 2.0 * steepness / (high - low)
    shift = -slope * (high + low) / 2
    largest = layers.GlobalMaxPooling1D(dtype="float32", name="largest")(
        layers.Reshape((num_classes, 1), dtype="float32", name="row")(correlated)
    )
    d = layers.Activation("sigmoid", dtype="float32", name="detector")(
        layers.Rescaling(slope, shift, dtype="float32", name="logit")(largest)
    )
    logits = logits_model(classifier, output)
    c = as_graph(logits, name="classifier")(inputs)
    n1 = layers.Multiply(dtype="float32", name="n1")([w, d])
    otherwise = layers.Rescaling(-1.0, 1.0, dtype="float32", name="else")(d)
    n2 = layers.Multiply(dtype="float32", name="n2")([c, otherwise])
    total = layers.Add(dtype="float32", name="sum")([n1, n2])
    return Counterexample(
        model=keras.Model(inputs, total, name=f"trapdoored_{classifier.name}"),
        n1=keras.Model(inputs, n1, name="n1"),
        n2=keras.Model(inputs, n2, name="n2"),
        correlations=correlations,
        decoder=keras.Model(inputs, w, name="trapdoor_decoder"),
        detector=keras.Model(inputs, d, name="trapdoor_detector"),
        trapdoors=trapdoors,
    )


def _fixed_dense(kernel: FloatArray, *, name: str) -> layers.Dense:
    """A dense layer without a bias that is never trained."""
    layer = layers.Dense(
        kernel.shape[1], use_bias=False, trainable=False, dtype="float32", name=name
    )
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel])
    return layer


def _largest_correlations(
    correlations: keras.Model, clean: FloatArray, trapdoors: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Those of clean images, and of the same with one trapdoor each, in turn."""
    classes: IntArray = np.arange(len(clean)) % len(trapdoors)
    parts = []
    for start in range(0, len(clean), 1024):
        part = slice(start, start + 1024)
        planted = np.clip(clean[part] + trapdoors[classes[part]], 0, 1)
        parts.append(
            [
                predict(correlations, images).max(axis=1)
                for images in (clean[part], planted)
            ]
        )
    without, planted = (np.concatenate(column) for column in zip(*parts, strict=True))
    return without, planted
