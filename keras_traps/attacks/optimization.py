"""The template of optimisation attacks: a distance plus c times a penalty, for many c.

An example whose loss no longer falls goes on to its next c, one that has had its last c
leaves: each is at a c and a step of its own.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from keras_traps.attacks.constants import Constant, first_constant, next_constant
from keras_traps.attacks.loop import apart, watched
from keras_traps.attacks.losses import Logits
from keras_traps.attacks.penalties import hinge
from keras_traps.attacks.rows import Finished, only
from keras_traps.attacks.success import fooled

State = tuple[tf.Tensor, ...]
"""What a method keeps from step to step, one row per example."""

Settings = Mapping[str, tf.Tensor]
"""Hyper-parameters by their names, scalars, and `targeted`."""

# cleverhans' share of the loss that has to be left at most for the steps to go on.
_PROGRESS = 0.9999


class Rows(NamedTuple):
    """The examples that are still worked on.

    Args:
        position: `(rows,)`, int32: where in the batch they are.
        images: `(rows, height, width, channels)`, float32: the clean images.
        labels: `(rows,)`, int64: their targets or true classes.
        ids: `(rows,)`, int64: which examples they are.
        draws: `(rows, ...)`, float32: what was drawn at random for each.
    """

    position: tf.Tensor
    images: tf.Tensor
    labels: tf.Tensor
    ids: tf.Tensor
    draws: tf.Tensor


class Standing(NamedTuple):
    """How far each example has come.

    Args:
        constant: Where its search over c stands.
        step: `(rows,)`, int32: how many steps it has made with this c.
        found: `(rows,)`, bool: whether this c has succeeded.
        losses: `(rows,)`, float32: sum of the losses since they were looked at.
        before: `(rows,)`, float32: that sum when it was looked at last.
        best: The shape of the images: the best success with any c, or the clean image.
        distance: `(rows,)`, float32: how far that is from the clean image in the
            attack's own measure, or the largest number.
        iterations: `(rows,)`, int32: all its steps.
    """

    constant: Constant
    step: tf.Tensor
    found: tf.Tensor
    losses: tf.Tensor
    before: tf.Tensor
    best: tf.Tensor
    distance: tf.Tensor
    iterations: tf.Tensor

    def weighted(self, gradient: tf.Tensor) -> tf.Tensor:
        """Returns c times the gradient of a penalty.

        Not the gradient of c times the penalty: on its way back through a model of half
        precision a large c is infinite, and a small one 0.

        Args:
            gradient: The shape of the images, float32.

        Returns:
            The same shape.
        """
        return self.constant.value[:, None, None, None] * gradient


class Attempt(NamedTuple):
    """What a step came to.

    Args:
        state: The method's next state.
        images: The shape of the images: what was tried.
        distance: `(rows,)`, float32: how far that is from the clean images.
        success: `(rows,)`, bool: whether the answer to it is the one that is wanted.
        loss: `(rows,)`, float32: what the method lowers.
    """

    state: State
    images: tf.Tensor
    distance: tf.Tensor
    success: tf.Tensor
    loss: tf.Tensor


class Method(abc.ABC):
    """How a step is made: the variable, the penalty and the optimiser.

    Args:
        logits: A function from a batch of images to `(batch, num_classes)`.
        settings: The hyper-parameters.
    """

    def __init__(self, logits: Logits, settings: Settings) -> None:
        self.logits = logits
        self.settings = settings

    @abc.abstractmethod
    def start(self, rows: Rows) -> State:
        """Returns the state before the first step with a c."""

    @abc.abstractmethod
    def step(self, rows: Rows, state: State, standing: Standing) -> Attempt:
        """Makes one step for every row."""

    def done(self, rows: Rows) -> tf.Tensor:
        """Returns `(rows,)`: whether the clean images are successes, and are kept."""
        logits, targeted = self.logits(rows.images), self.settings["targeted"]
        paid = hinge(logits, rows.labels, targeted, self.settings["confidence"])
        return fooled(logits, rows.labels, targeted) & (paid <= 0)

    def hinge(self, images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Returns `(batch,)`: 0 where the answer is the one wanted, above elsewhere.

        Its gradient, if not finite, names the examples.
        """
        return hinge(
            watched(self.logits, ids)(images),
            labels,
            self.settings["targeted"],
            self.settings["confidence"],
        )


def compile_search(
    make: Callable[[Logits, Settings], Method],
    logits: Logits,
    images: tf.TensorSpec,
    draws: tf.TensorSpec,
    settings: Mapping[str, tf.TensorSpec],
) -> Callable[..., Finished]:
    """Compiles the search of one method on one model.

    Args:
        make: Makes the method, from the logits and the hyper-parameters.
        logits: The model's logits function.
        images: What the images are like, with any batch size.
        draws: What the draws are like.
        settings: What the hyper-parameters are like.

    Returns:
        A function of the images, the labels, the ids, the draws and the settings,
        traced once.
    """
    row = tf.TensorSpec((None,), tf.int64)

    @tf.function(
        input_signature=[images, row, row, draws, dict(settings)], autograph=False
    )
    def search(
        images: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        draws: tf.Tensor,
        settings: Settings,
    ) -> Finished:
        rows = Rows(tf.range(tf.shape(images)[0]), images, labels, ids, draws)
        return _Loop(make(logits, settings), settings).run(rows)

    # Traced here once and for all, and not counted among its callers' retracings.
    search.get_concrete_function()
    return search


class _Loop:
    """The loop as a graph."""

    def __init__(self, method: Method, settings: Settings) -> None:
        self.method = method
        self.settings = settings

    def run(self, rows: Rows) -> Finished:
        finished = Finished(rows.images, tf.zeros_like(rows.position))
        rows = only(~self.method.done(rows), rows)
        *_, finished = tf.while_loop(
            lambda rows, *_: tf.size(rows.position) > 0,
            self.advance,
            (rows, self.method.start(rows), self.fresh(rows), finished),
        )
        return finished

    def fresh(self, rows: Rows) -> Standing:
        """Returns how far examples have come that have made no step."""
        zeros = tf.zeros_like(rows.position)
        largest = tf.fill(tf.shape(zeros), tf.float32.max)
        return Standing(
            constant=first_constant(self.settings["initial_const"], tf.size(zeros)),
            step=zeros,
            found=tf.zeros_like(zeros, tf.bool),
            losses=tf.zeros_like(largest),
            before=largest,
            best=rows.images,
            distance=largest,
            iterations=zeros,
        )

    def advance(
        self, rows: Rows, state: State, standing: Standing, finished: Finished
    ) -> tuple[Rows, State, Standing, Finished]:
        """Makes one step, after which some examples go on to another c or leave."""
        attempt = apart(self.method.step)(rows, state, standing)
        better = attempt.success & (attempt.distance < standing.distance)
        step = standing.step + 1
        losses = standing.losses + attempt.loss
        limit = self.settings["max_iterations"]
        # cleverhans compares the loss at two moments. Their means over a tenth of the
        # steps each are not misled by Adam's first steps, which raise the loss, nor by
        # swings across the boundary.
        looked = step % tf.maximum(limit // 10, 1) == 0
        stuck = looked & (losses > _PROGRESS * standing.before)
        ended = (step == limit) | (stuck & self.settings["abort_early"])
        standing = Standing(
            constant=standing.constant,
            step=step,
            found=standing.found | attempt.success,
            losses=tf.where(looked, 0.0, losses),
            before=tf.where(looked, losses, standing.before),
            best=_choose(better, attempt.images, standing.best),
            distance=tf.where(better, attempt.distance, standing.distance),
            iterations=standing.iterations + 1,
        )
        return tf.cond(
            tf.reduce_any(ended),
            lambda: self.turn(ended, rows, attempt.state, standing, finished),
            lambda: (rows, attempt.state, standing, finished),
        )

    def turn(
        self,
        ended: tf.Tensor,
        rows: Rows,
        state: State,
        standing: Standing,
        finished: Finished,
    ) -> tuple[Rows, State, Standing, Finished]:
        """Begins anew with another c where one has `ended`; the last ones leave."""
        searches = self.settings["binary_search_steps"]
        anew = self.fresh(rows)._replace(
            constant=next_constant(standing.constant, standing.found, searches),
            best=standing.best,
            distance=standing.distance,
            iterations=standing.iterations,
        )
        state, standing = _choose(
            ended, (self.method.start(rows), anew), (state, standing)
        )
        done = standing.constant.number == searches
        position, best, iterations = only(
            done, (rows.position, standing.best, standing.iterations)
        )
        finished = finished.write(position, best, iterations)
        return (*only(~done, (rows, state, standing)), finished)


def _choose(mask: tf.Tensor, one: Any, other: Any) -> Any:
    def choose(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        sizes = tf.concat([tf.shape(mask), tf.ones(one.shape.rank - 1, tf.int32)], 0)
        return tf.where(tf.reshape(mask, sizes), one, other)

    return tf.nest.map_structure(choose, one, other)
