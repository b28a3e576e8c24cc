"""A frozen classifier behind a network that is trained to lure attacks away from it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import (
    UNIT,
    Bounds,
    FloatArray,
    check_count,
    check_floating,
    check_images,
    check_labels,
    check_range_is_used,
)
from keras_traps.image_sources import Images, read_images
from keras_traps.luring.losses import (
    LuringLoss,
    check_loss,
    cross_entropy,
    luring_loss,
    margin_loss,
)
from keras_traps.luring.schemes import check_target, lure_before
from keras_traps.models.forms import two_columns
from keras_traps.models.inference import predict
from keras_traps.models.input_gradients import input_gradient_model
from keras_traps.models.logits import TellsLogits, logits_model
from keras_traps.models.outputs import Output, answers_of, check_outputs
from keras_traps.models.training import scaling_optimizer

Int32Array = npt.NDArray[np.int32]

_PROBED = 32


class FrozenAnswers(NamedTuple):
    """What M says of some images.

    Args:
        answer: c, the class of the largest logit, `(images,)`, int32.
        runner_up: b, that of the second largest, `(images,)`, int32.
    """

    answer: Int32Array
    runner_up: Int32Array


@keras.saving.register_keras_serializable(package="keras_traps")
class LuredClassifier(TellsLogits, keras.Model):
    """M∘P: a classifier M, frozen, that sees its images through a component P.

    `fit` trains P alone, on images without labels: what M answers is all that it
    learns from. `predict` gives M(P(x)), what an attacker is to see. What is deployed
    is M alone or where both agree; see `keras_traps.luring.agreement_model`.

    Images may come to `fit` and `evaluate` alone, with integer labels `(batch,)`, which
    serve the metric `accuracy` only, or with M's answers, as
    `keras_traps.luring.answered_dataset` gives them. Where these are missing `fit` asks
    M once about images in an array, and at every step about any other data.
    `keras.models.clone_model` makes a plain model of it, which does not lure.

    Args:
        target: M, a built Keras model from images to classes, or to one output for two
            classes; frozen before `fit` by `target.trainable = False`.
        lure: P, a `LuringInput`, or any Keras network that one is made of.
        output: What M returns; M∘P returns the same. Defaults to `"probabilities"`.
        bounds: The least and the largest value of a pixel, as M takes it. Defaults to
            `None`: those of the `LuringInput` or of a trapped M, else `(0.0, 1.0)`.
            Once it is made, `bounds` is what was found.
        probe: Whether M is shown a little noise, to see that it returns what `output`
            says, and its own rescaling looked at; not before its weights are read.
            Defaults to `True`.
        **kwargs: Passed on to `keras.Model`, such as a `name`.

    Call arguments:
        images: `(batch, height, width, channels)`, or what else M takes; floating
            point, or integers where the bounds are (and are not 0 and 1), pixels in
            `bounds`; or a list or dict of nothing else, as for other Keras models.
        training: Whether P is called as in training; M never is.

    Returns:
        M(P(x)), as M returns it, `(batch, num_classes)` or `(batch, 1)`, what `output`
        says, in the dtype of M.

    Raises:
        TypeError: If `target` is no Keras model or `lure` no Keras layer.
        ValueError: If M is no built classifier of images of a known size, does not
            return what `output` says, or its own rescaling does not fit the bounds; or
            P is of other bounds or returns images of another shape.

    Example:
    >>> target.trainable = False
    >>> lured = keras_traps.luring.LuredClassifier(
    ...     target, keras_traps.layers.LuringInput(), output="logits"
    ... )
    >>> lured.compile(keras.optimizers.Adam(1e-3), luring_weight=1.0)
    >>> lured.fit(images, batch_size=64, epochs=5)

    Reference:
        Bernhard, Moellic, Dutertre, Luring of Adversarial Perturbations, Section 3.2.
    """

    def __init__(
        self,
        target: keras.Model,
        lure: keras.layers.Layer,
        *,
        output: Output = "probabilities",
        bounds: Bounds | None = None,
        probe: bool = True,
        **kwargs: Any,
    ) -> None:
        lure = lure_before(target, lure, output, bounds, probe=probe)
        inputs = keras.Input(target.input_shape[1:], name="image")
        super().__init__(inputs, target(lure(inputs), training=False), **kwargs)
        self.target = target
        self.lure = lure
        self.output_kind: Output = output
        self._loss_name: LuringLoss = "luring"
        self._luring_weight: float | None = 1.0
        self._measures = {
            name: keras.metrics.Mean(name) for name in ("loss", "agreement", "accuracy")
        }

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: LuringLoss = "luring",
        *,
        luring_weight: float | None = None,
        jit_compile: bool | str = False,
        **kwargs: Any,
    ) -> None:
        """Chooses what P is trained with.

        Args:
            optimizer: As in `keras.Model.compile`. Defaults to `"adam"`.
            loss: `"luring"`, the paper's L; `"margin"`, its alternative L';
                `"cross_entropy"`, the baseline C_E. Defaults to `"luring"`.
            luring_weight: lambda of `"luring"` alone, above 0. Defaults to 1.
            jit_compile: As in `keras.Model.compile`; XLA does not check the pixels of
                a data set. Defaults to `False`.
            **kwargs: `run_eagerly`, `steps_per_execution`, `auto_scale_loss`.

        Raises:
            TypeError: If metrics, weights of losses or the like are given.
            ValueError: If the loss is unknown or has no lambda, or that is not above 0.
        """
        weight = check_loss(loss, luring_weight)
        known = {"run_eagerly", "steps_per_execution", "auto_scale_loss"}
        if unknown := set(kwargs) - known:
            raise TypeError(
                f"A lured classifier has a loss and metrics of its own. Expected none "
                f"but {sorted(known)}. Received: {sorted(unknown)}"
            )
        if kwargs.get("auto_scale_loss", True):
            # Keras looks at the policy of this model alone.
            parts = [self.lure, self.target, *filter(None, [self.lure.network])]
            optimizer = scaling_optimizer(optimizer, parts)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        self._loss_name, self._luring_weight = loss, weight

    @property
    def bounds(self) -> Bounds:
        """The least and the largest value of a pixel, those of P."""
        bounds: Bounds = self.lure.bounds
        return bounds

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns M(P(x)); `training` is passed on to P alone."""
        images = _only_images(images)
        # A functional model would pass its own `training` on to M as well.
        return self.target(self.lure(images, training=training), training=False)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The loss, the agreement with M, and the accuracy where labels are given."""
        return list(self._measures.values())

    # Methods, not properties: saving walks over those, into models without end.
    def to_logits(self) -> keras.Model:
        """Returns M∘P up to its logits, for losses that must not saturate."""
        logits = logits_model(self.target, self.output_kind)
        answer = logits(self.lure(self.input), training=False)
        return keras.Model(self.input, answer, name=f"logits_of_{self.name}")

    def to_lure_model(self) -> keras.Model:
        """Returns P alone as a Keras model, such as `serving.export` takes."""
        return keras.Model(self.input, self.lure(self.input), name="lure")

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains P; as in Keras, but that M is asked once about images in an array.

        Args:
            x: Images as the class says, or a data set of batches.
            y: Integer classes, or M's answers by name. Defaults to none.
            *args: As in `keras.Model.fit`.
            **kwargs: As there, but for `sample_weight` and `class_weight`.

        Returns:
            What `keras.Model.fit` returns.

        Raises:
            TypeError: If the images are integers and the bounds are not, or are not all
                that `x` holds, or labels in an array are not integers.
            ValueError: If M is trainable or P is not, images or labels in an array or a
                number of steps are out of their range, or images in an array, or in
                the first batch of other bounds than 0 and 1, use less than a fiftieth
                of the range of a pixel.
        """
        if kwargs.get("class_weight") is not None:
            raise _weighted("class_weight")
        for name in ("epochs", "batch_size", "steps_per_epoch"):
            if kwargs.get(name) is not None:
                check_count(name, kwargs[name])
        x, y = self._checked_arrays(x, y)
        if _is_array(x):
            check_range_is_used(x, self.bounds, name="x")
        elif isinstance(x, tf.data.Dataset) and self.bounds != UNIT:
            # Of pixels in [0, 1] that are not in these bounds M says one class alone.
            for batch in x.take(1):
                first = _only_images(keras.utils.unpack_x_y_sample_weight(batch)[0])
                check_range_is_used(np.asarray(first), self.bounds, name="x")
        if _is_array(x) and not isinstance(y, Mapping):
            found = frozen_answers(
                self.target, x, output=self.output_kind, bounds=self.bounds
            )._asdict()
            y = found if y is None else {**found, "label": y}
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Measures without training; as in Keras, of data as `fit` takes them."""
        return super().evaluate(*self._checked_arrays(x, y), *args, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Refuses to train while M is trainable or P is not; else as in Keras."""
        target, lure = self.target, self.lure
        if target.trainable_variables:
            raise ValueError(
                "Invalid value for argument `target`. Expected a frozen classifier, as "
                "`target.trainable = False` makes it: luring trains P alone. Received: "
                f"{target.name!r} with {len(target.trainable_variables)} variables"
            )
        if not lure.trainable_variables:
            raise ValueError(
                "Invalid value for argument `lure`. Expected a network with trainable "
                f"weights, see `lure.trainable = True`. Received: {lure.name!r}"
            )
        return super().make_train_function(force)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of P; see the class for the kinds of data."""
        variables = self.lure.trainable_variables
        with tf.GradientTape() as tape:
            loss, classes, known = self._forward(data, training=True)
            scaled = self.optimizer.scale_loss(loss)
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return self._measured(loss, classes, known)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Measures without training; see the class for the kinds of data."""
        return self._measured(*self._forward(data, training=False))

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor needs to make this model again."""
        target = keras.saving.serialize_keras_object(self.target)
        # How M itself was trained is of no use here.
        target.pop("compile_config", None)
        return {
            "name": self.name,
            "target": target,
            "lure": keras.saving.serialize_keras_object(self.lure),
            "output": self.output_kind,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Self:
        """Makes a model of what `get_config` returned; weights are read later."""
        parts = {
            name: keras.saving.deserialize_keras_object(
                config[name], custom_objects=custom_objects
            )
            for name in ("target", "lure")
        }
        return cls(**{**config, **parts}, probe=False)

    def get_compile_config(self) -> dict[str, Any]:
        """Returns what `compile_from_config` needs; nothing before `compile`."""
        if not self.compiled:
            return {}
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "loss": self._loss_name,
            "luring_weight": self._luring_weight,
            "jit_compile": self.jit_compile,
            "run_eagerly": self.run_eagerly,
            "steps_per_execution": self.steps_per_execution,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as the saved model was."""
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"])
        # An optimizer that scales the loss was saved as one.
        self.compile(**{**config, "optimizer": optimizer, "auto_scale_loss": False})
        # So that its state can be loaded.
        self.optimizer.build(self.lure.trainable_variables)

    def _checked_arrays(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Images and labels in arrays, checked; any other data as they are."""
        x = _only_images(x)
        if not _is_array(x):
            return x, y
        x = check_images(x, self.target.input_shape[1:], bounds=self.bounds, name="x")
        if y is None or isinstance(y, Mapping):
            return x, y
        labels = np.asarray(y)
        labels = labels[:, 0] if labels.shape == (len(x), 1) else labels
        return x, check_labels(labels, len(x), _count_classes(self.target), name="y")

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        """M's logits, float32, a column for each class."""
        model = input_gradient_model(logits_model(self.target, self.output_kind))
        logits = tf.cast(model(images, training=False), tf.float32)
        return two_columns(logits, "logits") if logits.shape[-1] == 1 else logits

    def _forward(
        self, data: Any, *, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of a batch, M∘P's classes, and what these are compared with."""
        images, answers, labels = _read_batch(data, self._logits, self.bounds)
        logits = self._logits(self.lure(images, training=training))
        answer = answers["answer"]
        if self._loss_name == "luring":
            weight = self._luring_weight
            losses = luring_loss(logits, answer, answers["runner_up"], weight)
        elif self._loss_name == "margin":
            losses = margin_loss(logits, answer)
        else:
            losses = cross_entropy(logits, answer)
        # What P's regularizers add is in half precision where P is.
        added = [tf.cast(part, tf.float32) for part in self.lure.losses]
        known = {"agreement": answer}
        if labels is not None:
            known["accuracy"] = labels
        loss = tf.add_n([tf.reduce_mean(losses), *added])
        return loss, tf.argmax(logits, axis=-1, output_type=tf.int32), known

    def _measured(
        self, loss: tf.Tensor, classes: tf.Tensor, known: dict[str, tf.Tensor]
    ) -> dict[str, Any]:
        """Counts a batch, and returns the means of the epoch so far."""
        self._measures["loss"].update_state(loss, sample_weight=tf.shape(classes)[0])
        for name, right in known.items():
            same = tf.equal(classes, tf.cast(right, tf.int32))
            self._measures[name].update_state(same)
        return {name: self._measures[name].result() for name in ("loss", *known)}


def frozen_answers(
    target: keras.Model,
    images: Images,
    *,
    output: Output,
    bounds: Bounds | None = None,
) -> FrozenAnswers:
    """Asks the classifier M for its answer and its runner-up.

    Args:
        target: M, called with `training=False`.
        images: `(images, ...)`, as M takes them, pixels in `bounds`: an array, a
            `tf.data.Dataset` or batches, as `keras_traps.datasets.read_images` takes
            them.
        output: What M returns.
        bounds: The least and the largest value of a pixel, as M takes it. Defaults to
            `None`: those of a trapped M, else `(0.0, 1.0)`.

    Returns:
        The two classes of each image; of equal logits, the lower class comes first.

    Raises:
        TypeError: If `target` is no Keras model, or the images are integers and the
            bounds are not.
        ValueError: If `target` is no built classifier of such images, `output` and
            `bounds`.
    """
    bounds = check_target(target, output, bounds, probe=False)
    shape = target.input_shape[1:]
    pixels, _ = read_images(images, rank=len(shape))
    return _ask(target, check_images(pixels, shape, bounds=bounds), output)


def _ask(target: keras.Model, pixels: FloatArray, output: Output) -> FrozenAnswers:
    check_outputs(predict(target, pixels[:_PROBED]), output)
    logits = answers_of(predict(logits_model(target, output), pixels), "logits")
    return FrozenAnswers(*(np.asarray(part) for part in _top_two(logits)))


def answered_dataset(
    target: keras.Model,
    images: Images,
    labels: npt.ArrayLike | None = None,
    *,
    output: Output,
    bounds: Bounds | None = None,
    batch_size: int = 64,
    order: npt.NDArray[np.integer] | None = None,
) -> tf.data.Dataset:
    """Joins images with M's answers, for `LuredClassifier.fit` and `evaluate`.

    `fit` makes the like of images in an array; this is for an order of one's own, and
    for data sets that M is to be asked about once.

    Args:
        target: M, called with `training=False`, here and never again.
        images: `(images, ...)`, as M takes them, pixels in `bounds`: an array, a
            `tf.data.Dataset` or batches, as `keras_traps.datasets.read_images` takes
            them.
        labels: Integer classes `(images,)`, for the metric `accuracy` only. Defaults
            to those that come with the images, or none.
        output: What M returns.
        bounds: The least and the largest value of a pixel, as M takes it. Defaults to
            `None`: those of a trapped M, else `(0.0, 1.0)`.
        batch_size: Images in a batch where there is no `order`. Defaults to `64`.
        order: Which images each batch has, `(batches, batch_size)`, as `batch_order`
            draws it. Defaults to all images in their order, in every epoch.

    Returns:
        Batches `(images, {"answer", "runner_up"[, "label"]})`.

    Raises:
        TypeError: If `target` is no Keras model, or the images are integers and the
            bounds are not.
        ValueError: If `target` is no built classifier of such images, `output` and
            `bounds`, or the labels are not theirs.
    """
    check_count("batch_size", batch_size)
    bounds = check_target(target, output, bounds, probe=False)
    shape = target.input_shape[1:]
    found, labels = read_images(images, labels, rank=len(shape))
    pixels = check_images(found, shape, bounds=bounds)
    told: dict[str, npt.NDArray[np.integer]]
    told = _ask(target, pixels, output)._asdict()
    if labels is not None:
        classes = _count_classes(target)
        told["label"] = check_labels(labels, len(pixels), classes, name="labels")
    return batches(pixels, told, batch_size=batch_size, order=order)


def batch_order(count: int, batch_size: int, steps: int, *, seed: int) -> Int32Array:
    """Draws which images each step of a training sees, each once before any again.

    Args:
        count: How many images there are.
        batch_size: How many a step sees: the last of a pass with the first of the next.
        steps: How many steps there are.
        seed: Of the order of each pass. A longer training begins as a shorter one.

    Returns:
        Indices `(steps, batch_size)`, int32.

    Raises:
        ValueError: If a number is not an integer of at least 1.
    """
    for name, value in (("count", count), ("batch_size", batch_size), ("steps", steps)):
        check_count(name, value)
    passes = -(-steps * batch_size // count)
    drawn = [
        np.random.default_rng([seed, number]).permutation(count)
        for number in range(passes)
    ]
    rows = np.concatenate(drawn)[: steps * batch_size]
    return rows.reshape(steps, batch_size).astype(np.int32)


def batches(
    images: FloatArray | tf.Tensor,
    told: Any,
    *,
    batch_size: int = 64,
    order: npt.NDArray[np.integer] | None = None,
) -> tf.data.Dataset:
    """Cuts arrays into batches `(images, told)`, in their order or in another one."""
    if order is None:
        data = tf.data.Dataset.from_tensor_slices((images, told)).batch(batch_size)
    else:
        held = tf.nest.map_structure(tf.convert_to_tensor, (images, told))
        data = tf.data.Dataset.from_tensor_slices(order).map(
            lambda rows: tf.nest.map_structure(lambda one: tf.gather(one, rows), held)
        )
    # What tunes a pipeline sleeps for up to a minute, and `fit` waits until it wakes.
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.prefetch(2).with_options(options)


def _top_two(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    ranked = tf.math.top_k(logits, k=2).indices
    return ranked[:, 0], ranked[:, 1]


def _count_classes(target: keras.Model) -> int:
    return max(2, int(target.output_shape[-1]))


def _is_array(data: Any) -> bool:
    return isinstance(data, np.ndarray | tf.Tensor)


def _only_images(data: Any) -> Any:
    """Takes images out of a list or dict of nothing else, as Keras models do."""
    if not isinstance(data, list | tuple | Mapping):
        return data
    if len(data) != 1:
        what = sorted(data) if isinstance(data, Mapping) else len(data)
        raise TypeError(
            "Invalid value for argument `x`. Expected images, or batches (images, "
            f"labels). Received: a {type(data).__name__} of {what}"
        )
    return next(iter(data.values() if isinstance(data, Mapping) else data))


def _read_batch(
    data: Any, ask: Callable[[tf.Tensor], tf.Tensor], bounds: Bounds
) -> tuple[tf.Tensor, dict[str, tf.Tensor], tf.Tensor | None]:
    """Takes apart what `fit` hands to a step: images, M's answers, labels or none."""
    images, told, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        raise _weighted("sample_weight")
    images = tf.convert_to_tensor(_only_images(images))
    check_floating(images.dtype.name, bounds=bounds, name="x")
    if not images.dtype.is_floating:
        images = tf.cast(images, tf.float32)
    low, high = bounds
    # NaN is neither.
    inside = tf.reduce_all((images >= low) & (images <= high))
    limits = f"Expected pixels in [{low:g}, {high:g}]"
    message = f"Invalid value for argument `x`. {limits}. Received: from"
    found = [message, tf.reduce_min(images), "to", tf.reduce_max(images)]
    with tf.control_dependencies([tf.debugging.Assert(inside, found)]):
        images = tf.identity(images)
    names = FrozenAnswers._fields
    if isinstance(told, Mapping):
        if missing := [name for name in names if name not in told]:
            raise ValueError(
                f"Invalid value for argument `y`. Expected M's answers by name, {names}"
                f". Received: none of the name {missing[0]!r}"
            )
        answers = {name: told[name] for name in names}
        labels = told.get("label")
    else:
        answers = dict(zip(names, _top_two(ask(images)), strict=True))
        labels = told
    if labels is None:
        return images, answers, None
    shape = tf.convert_to_tensor(labels).shape
    # A shape that is not known passes here.
    if not any(shape.is_compatible_with(known) for known in ([None], [None, 1])):
        raise ValueError(
            "Invalid value for argument `y`. Expected integer classes of shape "
            f"(batch,), not one-hot rows. Received: shape {tuple(shape)}"
        )
    return images, answers, tf.reshape(labels, [-1])


def _weighted(name: str) -> ValueError:
    return ValueError(
        f"Invalid value for argument `{name}`. Expected none: every image counts alike."
    )
