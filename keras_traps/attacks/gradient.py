"""The template of gradient attacks: one compiled loop with hooks."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import Batch, Perturbed
from keras_traps.attacks.loop import apart, once_per_model, watched
from keras_traps.attacks.losses import Logits, Loss, rivals_lead
from keras_traps.attacks.norms import LINF, Norm
from keras_traps.attacks.rows import Finished, only
from keras_traps.attacks.success import fooled
from keras_traps.models.inference import inference_function

Look = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From images and a draw for each, `(rows,)`, to the images that the model is shown."""

Smooth = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From gradients and the kernel to the gradients that are followed."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What sets one gradient attack apart from another; fixed when it is compiled.

    Args:
        norm: Steps and projection. Defaults to L-infinity.
        momentum: Whether gradients, each divided by its mean absolute value, add up
            from step to step. Defaults to `False`.
        look: Through what the model is shown the images. Defaults to `None`: it is
            shown them as they are.
        smooth: What is done to each gradient. Defaults to `None`: nothing.
        infer: From a model to the logits function to follow. It must not hold the
            model. Defaults to the model's own logits.
        abort_early: Whether an example stops as soon as it has succeeded. Not beside
            `look`, where the answers are not those to the images. Defaults to `False`.
    """

    norm: Norm = LINF
    momentum: bool = False
    look: Look | None = None
    smooth: Smooth | None = None
    infer: Callable[[keras.Model], Logits] = inference_function
    abort_early: bool = False

    def __post_init__(self) -> None:
        if self.look is not None and self.abort_early:
            raise ValueError(
                "Invalid value for argument `abort_early`. Expected `False` beside "
                "`look`. Received: abort_early=True"
            )


class Settings(NamedTuple):
    """Hyper-parameters: tensors in the compiled loop, where they cost no retrace.

    Args:
        eps: Radius of the ball.
        eps_iter: Length of a step.
        nb_iter: How many steps.
        targeted: Whether the labels are targets.
        decay_factor: How much of the earlier gradients' sum stays at each step, for a
            recipe with momentum. Defaults to `1.0`.
        kernel: `(length,)`: for a recipe with `smooth`. Defaults to `(1.0,)`.
    """

    eps: Any
    eps_iter: Any
    nb_iter: Any
    targeted: Any
    decay_factor: Any = 1.0
    kernel: Any = (1.0,)


_SPECS = Settings(
    eps=tf.TensorSpec((), tf.float32),
    eps_iter=tf.TensorSpec((), tf.float32),
    nb_iter=tf.TensorSpec((), tf.int32),
    targeted=tf.TensorSpec((), tf.bool),
    decay_factor=tf.TensorSpec((), tf.float32),
    kernel=tf.TensorSpec((None,), tf.float32),
)


def run_gradient_loop(
    batch: Batch,
    recipe: Recipe,
    settings: Settings,
    *,
    start: FloatArray | None = None,
    draws: npt.NDArray[np.integer] | None = None,
) -> Perturbed:
    """Attacks a batch by iterated gradient steps.

    Args:
        batch: What to work on. Its loss is raised away from the labels, or lowered
            towards them if they are targets.
        recipe: Which attack.
        settings: Its hyper-parameters.
        start: Where to start, of the shape of the images, in the ball. Defaults to the
            images.
        draws: `(batch, nb_iter)`, integers: what `recipe.look` is given at each step.

    Returns:
        The images after the last step, or those that succeeded first, and how many
        steps each has made.
    """
    loop = once_per_model(
        batch.model,
        ("gradient loop", recipe, batch.loss),
        lambda _: _compile(batch.model, recipe, batch.loss),
    )
    images, iterations = loop(
        tf.constant(batch.images),
        tf.constant(batch.images if start is None else start, tf.float32),
        tf.constant(batch.labels),
        tf.constant(batch.ids),
        tf.zeros((len(batch.ids), 0), tf.int32)
        if draws is None
        else tf.constant(draws, tf.int32),
        Settings(
            *(
                tf.cast(value, spec.dtype)
                for value, spec in zip(settings, _SPECS, strict=True)
            )
        ),
    )
    return Perturbed(images, iterations)


class _Rows(NamedTuple):
    """The examples that are still worked on; the first axis is theirs.

    Args:
        position: Where in the batch they are.
        clean: Their clean images.
        labels: Their targets or true classes.
        ids: Which examples they are.
        draws: What was drawn for each step, or no columns.
        images: Where they are.
        memory: The sum of earlier gradients, or no columns.
    """

    position: tf.Tensor
    clean: tf.Tensor
    labels: tf.Tensor
    ids: tf.Tensor
    draws: tf.Tensor
    images: tf.Tensor
    memory: tf.Tensor


def _compile(model: keras.Model, recipe: Recipe, loss: Loss) -> Callable[..., Finished]:
    infer = recipe.infer(model)
    images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    column = tf.TensorSpec((None,), tf.int64)
    draws = tf.TensorSpec((None, None), tf.int32)

    @tf.function(
        input_signature=[images, images, column, column, draws, _SPECS],
        autograph=False,
    )
    def loop(
        clean: tf.Tensor,
        start: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        draws: tf.Tensor,
        settings: Settings,
    ) -> Finished:
        count = tf.shape(clean)[0]
        memory = tf.zeros_like(clean) if recipe.momentum else tf.zeros((count, 0))
        rows = _Rows(tf.range(count), clean, labels, ids, draws, start, memory)
        return _Loop(infer, recipe, loss, settings).run(rows)

    # Traced here once and for all, and not counted among its callers' retracings.
    loop.get_concrete_function()
    return loop


class _Loop:
    """The loop as a graph."""

    def __init__(
        self, infer: Logits, recipe: Recipe, loss: Loss, settings: Settings
    ) -> None:
        self.infer = infer
        self.recipe = recipe
        self.loss = loss
        self.settings = settings

    def run(self, rows: _Rows) -> Finished:
        finished = Finished(rows.images, tf.zeros_like(rows.position))
        step, rows, finished = tf.while_loop(
            lambda step, rows, _: (
                (step < self.settings.nb_iter) & (tf.size(rows.position) > 0)
            ),
            self.advance,
            (tf.constant(0), rows, finished),
        )
        return _leave(rows, step, finished)

    def advance(
        self, step: tf.Tensor, rows: _Rows, finished: Finished
    ) -> tuple[tf.Tensor, _Rows, Finished]:
        """Makes one step, after which some have left."""
        gradient, logits = apart(self.gradient)(rows, step)
        if self.recipe.abort_early:
            done = fooled(logits, rows.labels, self.settings.targeted)
            rows, gradient, finished = tf.cond(
                tf.reduce_any(done),
                lambda: (
                    *only(~done, (rows, gradient)),
                    _leave(only(done, rows), step, finished),
                ),
                lambda: (rows, gradient, finished),
            )
        return step + 1, self.move(rows, gradient), finished

    def gradient(self, rows: _Rows, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns where to go, and the answers at the images."""
        logits_of = watched(self.infer, rows.ids)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(rows.images)
            shown = rows.images
            if self.recipe.look is not None:
                shown = self.recipe.look(shown, rows.draws[:, step])
            logits = logits_of(shown)
            lead = rivals_lead(logits, rows.labels, self.loss)
            gain = tf.where(self.settings.targeted, -lead, lead)
        gradient = tape.gradient(gain, rows.images)
        if self.recipe.smooth is not None:
            gradient = self.recipe.smooth(gradient, self.settings.kernel)
        return gradient, logits

    def move(self, rows: _Rows, gradient: tf.Tensor) -> _Rows:
        """Returns the rows with their images one step further."""
        settings, memory = self.settings, rows.memory
        if self.recipe.momentum:
            size = tf.reduce_mean(tf.abs(gradient), axis=(1, 2, 3), keepdims=True)
            gradient = tf.math.divide_no_nan(gradient, size)
            memory = gradient = settings.decay_factor * memory + gradient
        moved = rows.images + settings.eps_iter * self.recipe.norm.step(gradient)
        images = self.recipe.norm.project(moved, rows.clean, settings.eps)
        return rows._replace(images=images, memory=memory)


def _leave(rows: _Rows, step: tf.Tensor, finished: Finished) -> Finished:
    return finished.write(rows.position, rows.images, step)
