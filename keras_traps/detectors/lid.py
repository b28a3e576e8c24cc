"""LID: in how many dimensions the neighbours of an image lie, layer by layer."""

from collections.abc import Sequence
from typing import Any, Self, cast

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import Bounds, FloatArray, check_count
from keras_traps.detectors.base import ClassifierDetector, Parts
from keras_traps.models.inference import as_graph, batch_size_for
from keras_traps.models.outputs import Output

# The authors' number of neighbours, and of the clean images that they are sought among.
_NEIGHBOURS, _REFERENCE = 20, 100

# So many images are learnt from at least, beside those of reference.
_FEWEST = 20

# Added to distances, of which logarithms are taken; and the largest estimate, where all
# neighbours are as far.
_EPSILON, _LARGEST = 1e-12, 1e3


class LID(ClassifierDetector):
    """Flags images whose neighbours in the classifier's layers are spread unusually.

    In each layer the local intrinsic dimensionality of an image is estimated from its
    distances r_1 to r_k to the k = 20 nearest of 100 clean images: -k divided by the
    sum of log(r_i / r_k). A logistic regression of the estimates tells adversarial
    images from clean and noisy ones; the score is its logit.

    It learns from adversarial images, and knows the attack that made them best. Where
    the authors' code has these leaks, here there are none: its clean images of
    reference are those of the test set at the same positions, the origin of an
    adversarial image among them, here they are a random part of the images of training,
    from which nothing else is learnt; its range of each estimate is taken over the test
    images too, here over what is learnt from. The nearest neighbour, which is left out
    there, is the image itself there, and is counted here. Logarithms are kept finite.

    Attacks of high confidence evade it (Athalye et al., Obfuscated Gradients Give a
    False Sense of Security, 2018).

    Args:
        classifier: Called with `training=False`.
        output: What it returns.
        bounds: The least and the largest value of a pixel, as the classifier takes it.
            Defaults to `None`: those of traps in it, else `(0.0, 1.0)`.
        layers: Names of the layers to look at, that of the input among them. Of a model
            in the model, what it returns is looked at. Defaults to `None`: all.

    Raises:
        TypeError: If `classifier` is not a Keras model.
        ValueError: If it is not built, does not return what `output` says or is of
            other `bounds`, or has no such layer.

    Example:
    >>> lid = keras_traps.detectors.LID(classifier, output="logits")
    >>> lid.fit(images_train, adversarial).fit_threshold(held_out, fpr=0.05)
    >>> lid.detect(suspects).is_adversarial

    Reference:
        Ma et al., Characterizing Adversarial Subspaces Using Local Intrinsic
        Dimensionality, ICLR 2018.
    """

    def __init__(
        self,
        classifier: keras.Model,
        *,
        output: Output,
        bounds: Bounds | None = None,
        layers: Sequence[str] | None = None,
    ) -> None:
        super().__init__(classifier, output=output, bounds=bounds)
        known = _layer_outputs(classifier)
        names = list(known) if layers is None else list(layers)
        if not names or (unknown := [name for name in names if name not in known]):
            raise ValueError(
                "Invalid value for argument `layers`. Expected names of layers of "
                f"{classifier.name!r}, which has {', '.join(known)}. Received: "
                f"{', '.join(unknown) if names else 'none'}"
            )
        self.layers = tuple(names)
        image = next(iter(known.values()))
        self._features = keras.Model(image, [known[name] for name in names])
        self._reference: FloatArray | None = None
        self._weights = np.zeros(len(names) + 1, np.float32)
        self._neighbours: list[tf.Tensor] = []

    def fit(
        self,
        clean: npt.ArrayLike,
        adversarial: npt.ArrayLike,
        noisy: npt.ArrayLike | None = None,
        *,
        seed: int = 0,
    ) -> Self:
        """Learns to tell adversarial images from clean and from noisy ones.

        A hundred of the clean images, chosen at random, become those of reference; they
        and what was made of them are not learnt from. Thresholds are deleted.

        Args:
            clean: `(images, ...)`, at least 120, as the classifier takes them, best
                those that it is right on; those that it was trained on will do.
            adversarial: Of the same shape, what an attack made of each.
            noisy: Of the same shape, each with noise, which is no attack. Defaults to
                `None`: normal noise is added whose L2 norm is that of the attack's
                change, and cut off at the bounds.
            seed: Of the choice and the noise. Defaults to `0`.

        Returns:
            The detector itself.

        Raises:
            TypeError: If images are integers and the bounds are not.
            ValueError: If images do not fit, there are too few, or not as many of each.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, GroupKFold

        check_count("seed", seed, at_least=0)
        kinds = [self._check(clean, name="clean")]
        kinds.append(self._check(adversarial, name="adversarial"))
        generator = np.random.default_rng(seed)
        if noisy is not None:
            kinds.append(self._check(noisy, name="noisy"))
        for name, images in zip(("adversarial", "noisy"), kinds[1:], strict=False):
            if len(images) != len(kinds[0]):
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected one for each of "
                    f"{len(kinds[0])} clean images. Received: {len(images)}"
                )
        if len(kinds[0]) < _REFERENCE + _FEWEST:
            raise ValueError(
                "Invalid value for argument `clean`. Expected at least "
                f"{_REFERENCE + _FEWEST} images, of which {_REFERENCE} are for "
                f"reference. Received: {len(kinds[0])} images"
            )
        order = generator.permutation(len(kinds[0]))
        if noisy is None:
            kinds.append(with_noise(kinds[0], kinds[1], generator, self.bounds))
        self._set_reference(kinds[0][order[:_REFERENCE]])
        learnt = order[_REFERENCE:]
        rows = self._estimate(np.concatenate([images[learnt] for images in kinds]))
        attacked = np.repeat([0, 1, 0], len(learnt))
        least, span = rows.min(axis=0), np.ptp(rows, axis=0)
        scale = np.divide(1, span, out=np.zeros_like(span), where=span > 0)
        # What was made of one image is never on both sides.
        groups = np.tile(np.arange(len(learnt)), 3)
        scaled = (rows - least) * scale
        strengths = {"C": np.logspace(-4, 4, 10)}
        # Few columns: exact steps, where L-BFGS waits for threads.
        regression = LogisticRegression(solver="newton-cholesky")
        search = GridSearchCV(regression, strengths, cv=GroupKFold(5))
        model = search.fit(scaled, attacked, groups=groups).best_estimator_
        weights = model.coef_[0] * scale
        offset = model.intercept_[0] - least @ weights
        self._weights = np.append(weights, offset).astype(np.float32)
        self._thresholds = None
        self.__dict__.pop("_compiled", None)
        return self

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the logit of the regression, with a gradient.

        Args:
            images: `(batch, ...)`, float32, as the classifier takes them.

        Returns:
            `(batch,)`, float32, higher for more adversarial.

        Raises:
            RuntimeError: If there was no `fit`.
        """
        self._check_fitted()
        return (
            tf.linalg.matvec(self._lids(images), self._weights[:-1]) + self._weights[-1]
        )

    def _check_fitted(self) -> FloatArray:
        if self._reference is None:
            raise RuntimeError("The LID has learnt nothing yet: call `fit` first.")
        return self._reference

    def _set_reference(self, images: FloatArray) -> None:
        self._reference = images
        # Tensors, and not constants of a graph: they are many numbers.
        self._neighbours = [
            tf.constant(np.concatenate(parts))
            for parts in zip(
                *(
                    [layer.numpy() for layer in self._activations(tf.constant(batch))]
                    for batch in self._batches(images)
                ),
                strict=True,
            )
        ]

    def _batches(self, images: FloatArray) -> list[FloatArray]:
        size = batch_size_for(images.shape[1:])
        return [images[start : start + size] for start in range(0, len(images), size)]

    def _estimate(self, images: FloatArray) -> npt.NDArray[np.float64]:
        """Returns `(batch, layers)`."""
        lids = tf.function(self._lids, reduce_retracing=True, autograph=False)
        found = [lids(tf.constant(batch)) for batch in self._batches(images)]
        return np.concatenate(found).astype(np.float64)

    def _activations(self, images: tf.Tensor) -> list[tf.Tensor]:
        """Returns what each layer makes of images, `(batch, units)`."""
        made = tf.nest.flatten(self._features(images, training=False))
        return [
            tf.reshape(one, (-1, np.prod(one.shape[1:], dtype=int))) for one in made
        ]

    def _lids(self, images: tf.Tensor) -> tf.Tensor:
        pairs = zip(self._activations(images), self._neighbours, strict=True)
        return tf.stack([local_dimensionality(*pair) for pair in pairs], axis=1)

    def _config(self) -> dict[str, Any]:
        return {**super()._config(), "layers": self.layers}

    def _parts(self) -> Parts:
        return {"reference.npy": self._check_fitted(), "weights.npy": self._weights}

    def _restore(self, parts: Parts) -> None:
        self._set_reference(cast(FloatArray, parts["reference.npy"]))
        self._weights = cast(FloatArray, parts["weights.npy"])


def with_noise(
    clean: FloatArray,
    adversarial: FloatArray,
    generator: np.random.Generator,
    bounds: Bounds,
) -> FloatArray:
    """Adds noise that is as large in L2 as what an attack changed."""
    axes = tuple(range(1, clean.ndim))
    noise = generator.standard_normal(clean.shape, np.float32)
    change, drawn = (
        np.sqrt((one**2).sum(axis=axes, keepdims=True))
        for one in (adversarial - clean, noise)
    )
    low, high = map(np.float32, bounds)
    return np.clip(clean + noise * (change / drawn), low, high)


def local_dimensionality(
    points: tf.Tensor, reference: tf.Tensor, k: int = _NEIGHBOURS
) -> tf.Tensor:
    """Estimates the local intrinsic dimensionality of points, `(batch,)`, float32."""
    # Near points may lie far from the origin: their squares would swallow float32.
    points, reference = (tf.cast(one, tf.float64) for one in (points, reference))
    middle = tf.reduce_mean(reference, axis=0)
    points, reference = points - middle, reference - middle
    squares = (
        tf.reduce_sum(points**2, axis=1, keepdims=True)
        + tf.reduce_sum(reference**2, axis=1)
        - 2.0 * tf.matmul(points, reference, transpose_b=True)
    )
    nearest = -tf.math.top_k(-squares, k).values
    # Half the logarithm of a square is that of the distance, and has a gradient at 0.
    logs = tf.math.log(tf.maximum(nearest, 0.0) + _EPSILON**2) / 2.0
    spread = tf.reduce_mean(logs[:, -1:] - logs, axis=1)
    return tf.cast(1.0 / tf.maximum(spread, 1.0 / _LARGEST), tf.float32)


def _layer_outputs(classifier: keras.Model) -> dict[str, keras.KerasTensor]:
    """Returns the outputs of all layers by name, the input first."""
    outputs: dict[str, keras.KerasTensor] = {}

    def call(layer: keras.layers.Layer, *inputs: Any, **more: Any) -> Any:
        found = layer(*inputs, **more)
        if isinstance(layer, keras.layers.Layer) and hasattr(found, "shape"):
            outputs[layer.name] = found
        return found

    graph = as_graph(classifier, name=classifier.name)
    copy = keras.models.clone_model(
        # A layer may be part of other models too, with another output there.
        graph,
        clone_function=lambda layer: layer,
        call_function=call,
    )
    return {copy.inputs[0].name: copy.inputs[0], **outputs}
