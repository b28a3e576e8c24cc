"""A frozen classifier behind a network that is trained to lure attacks away from it."""

from collections.abc import Mapping
from typing import Any, Self

import keras
import tensorflow as tf

from keras_traps._checks import check_images
from keras_traps.layers import LuringInput
from keras_traps.luring.answers import (
    answer_arrays,
    check_told,
    is_array,
    only_images,
    read_batch,
)
from keras_traps.luring.checks import check_roles, check_target
from keras_traps.luring.losses import LuringLoss, check_loss, make_loss
from keras_traps.luring.measures import RunningMeasures
from keras_traps.models.input_gradients import input_gradient_model
from keras_traps.models.logits import TellsLogits, logits_model
from keras_traps.models.loss_scaling import scaling_optimizer
from keras_traps.models.outputs import Output


@keras.saving.register_keras_serializable(package="keras_traps")
class LuredClassifier(TellsLogits, keras.Model):
    """M∘P: a classifier M, frozen, that sees its images through a component P.

    `fit` trains P alone, on images without labels: what M answers is all that it
    learns from. `predict` gives M(P(x)), what an attacker is to see. What is deployed
    is M alone or where both agree; see `keras_traps.luring.agreement_model`.

    Images may come to `fit` and `evaluate` alone, with integer labels `(batch,)`, which
    serve the metric `accuracy` and nothing else, or with M's answers, as
    `keras_traps.luring.answered_dataset` gives them. Where these are missing `fit` asks
    M once about images in an array, and at every step about `validation_data` and about
    a data set, which may augment them. Do not use `sample_weight`.

    `keras.models.clone_model` makes a plain model of it, which does not lure. A copy is
    `LuredClassifier.from_config(lured.get_config())`, given its weights.

    Args:
        target: M, a built Keras model from images in [0, 1] to classes. `fit` refuses
            it while it is trainable: set `target.trainable = False` first.
        lure: P, a `LuringInput`, or any Keras network that one is made of.
        output: What M returns; M∘P returns the same. Defaults to `"probabilities"`.
        probe: Whether M is shown a little noise, to see that it returns what `output`
            says; not before its weights are read. Defaults to `True`.
        **kwargs: Passed on to `keras.Model`, such as a `name`.

    Call arguments:
        images: `(batch, height, width, channels)`, floating point, in [0, 1]; or a
            list or dict of nothing else, as for other Keras models.
        training: Whether P is called as in training; M never is.

    Returns:
        M(P(x)), `(batch, num_classes)`, what `output` says, in the dtype of M.

    Raises:
        TypeError: If `target` is no Keras model or `lure` no Keras layer.
        ValueError: If M is not built, has fewer than 2 classes, is not one of images
            of a known size, or does not return what `output` says; or if P returns
            images of another shape.

    Example:
    >>> target.trainable = False
    >>> lured = keras_traps.luring.LuredClassifier(
    ...     target, keras_traps.layers.LuringInput("mnist"), output="logits"
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
        probe: bool = True,
        **kwargs: Any,
    ) -> None:
        check_target(target, output, probe=probe)
        if not isinstance(lure, keras.layers.Layer):
            raise TypeError(
                "Invalid value for argument `lure`. Expected a Keras layer or model. "
                f"Received: {type(lure).__name__}"
            )
        lure = LuringInput.of(lure)
        inputs = keras.Input(target.input_shape[1:], name="image")
        super().__init__(inputs, target(lure(inputs), training=False), **kwargs)
        self.target = target
        self.lure = lure
        self.output_kind: Output = output
        self._loss_name: LuringLoss = "luring"
        self._luring_weight: float | None = 1.0
        self._measures = RunningMeasures()

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
                `"cross_entropy"`, the baseline C_E, which imitates M. Defaults to
                `"luring"`.
            luring_weight: lambda, above 0, of `"luring"`, and of no other. Defaults
                to 1.
            jit_compile: As in `keras.Model.compile`, but off unless asked for: XLA's
                convolutions are slow on a CPU, and it leaves out the check that the
                pixels of a data set are in [0, 1]. Defaults to `False`.
            **kwargs: `run_eagerly`, `steps_per_execution`, `auto_scale_loss`.

        Raises:
            TypeError: If metrics, weights of losses or the like are given.
            ValueError: If the loss is unknown or has no lambda, or `luring_weight` is
                not above 0.
        """
        weight = check_loss(loss, luring_weight)
        known = {"run_eagerly", "steps_per_execution", "auto_scale_loss"}
        if unknown := set(kwargs) - known:
            raise TypeError(
                "A lured classifier has its own loss and metrics. Received: "
                f"{', '.join(sorted(unknown))}"
            )
        if kwargs.get("auto_scale_loss", True):
            # Keras looks at the policy of this model alone.
            parts = [self.lure, self.target, *filter(None, [self.lure.network])]
            optimizer = scaling_optimizer(optimizer, parts)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        self._loss_name, self._luring_weight = loss, weight

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns M(P(x)); `training` is passed on to P alone."""
        images = only_images(images)
        # A functional model would pass its own `training` on to M as well.
        return self.target(self.lure(images, training=training), training=False)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The loss, the agreement with M, and the accuracy where labels are given."""
        return self._measures.metrics

    # Methods, not properties: saving walks over those, into models without end.
    def to_logits(self) -> keras.Model:
        """Returns M∘P up to its logits, for losses that must not saturate.

        Returns:
            A model that shares this one's layers.
        """
        if self.output_kind == "logits":
            return keras.Model(self.input, self.output, name=self.name)
        logits = logits_model(self.target, self.output_kind)
        return keras.Model(
            self.input,
            logits(self.lure(self.input), training=False),
            name=f"logits_of_{self.name}",
        )

    def to_lure_model(self) -> keras.Model:
        """Returns P alone as a Keras model, such as `serving.export` takes.

        Returns:
            A model from images to images that shares the weights of P.
        """
        return keras.Model(self.input, self.lure(self.input), name="lure")

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains P; as in Keras, but that M is asked once about images in an array.

        Args:
            x: Images as the class says, or a data set of batches.
            y: Integer classes, or M's answers by name. Defaults to none.
            *args: As in `keras.Model.fit`.
            **kwargs: As in `keras.Model.fit`, but for `sample_weight` and
                `class_weight`.

        Returns:
            What `keras.Model.fit` returns.

        Raises:
            TypeError: If the images are not floating point or not all that `x` holds,
                or labels in an array are not integers.
            ValueError: If M is trainable or P is not, images in an array are not those
                that M takes, or their labels are not its classes.
        """
        check_roles(self.target, self.lure)
        if kwargs.get("class_weight") is not None:
            raise ValueError(
                "Invalid value for argument `class_weight`. Expected none: every image "
                "counts alike."
            )
        x = only_images(x)
        x, y = answer_arrays(self.target, x, y, output=self.output_kind)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Measures without training; as in Keras, of data as `fit` takes them."""
        x = only_images(x)
        if is_array(x):
            x = check_images(x, self.target.input_shape[1:], name="x")
            y = check_told(y, len(x), self.target.output_shape[-1])
        return super().evaluate(x, y, *args, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Refuses to train while M is trainable or P is not; else as in Keras."""
        check_roles(self.target, self.lure)
        return super().make_train_function(force)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of P; see the class for the kinds of data."""
        images, answers, labels = read_batch(data, self._logits)
        variables = self.lure.trainable_variables
        with tf.GradientTape() as tape:
            logits = self._logits(self.lure(images, training=True))
            loss = self._total_loss(logits, answers)
            scaled = self.optimizer.scale_loss(loss)
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return self._measures.update(loss, logits, answers, labels)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Measures without training; see the class for the kinds of data."""
        images, answers, labels = read_batch(data, self._logits)
        logits = self._logits(self.lure(images, training=False))
        loss = self._total_loss(logits, answers)
        return self._measures.update(loss, logits, answers, labels)

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

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        """M's logits, float32."""
        model = input_gradient_model(logits_model(self.target, self.output_kind))
        return tf.cast(model(images, training=False), tf.float32)

    def _total_loss(
        self, logits: tf.Tensor, answers: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """The mean over the images, and what P's regularizers add."""
        loss = make_loss(self._loss_name, self._luring_weight)
        # In half precision a regularizer's part is, too.
        added = [tf.cast(part, tf.float32) for part in self.lure.losses]
        return tf.add_n([tf.reduce_mean(loss(logits, answers)), *added])
