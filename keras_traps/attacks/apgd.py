"""Auto-PGD, whose steps halve where the loss stops rising, and what tries rivals."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks.base import (
    Batch,
    Count,
    NormAttack,
    Perturbed,
    Share,
    numbers_of,
)
from keras_traps.attacks.loop import (
    DLR_LEAST,
    L2,
    LINF,
    Finished,
    Logits,
    Loss,
    Norm,
    Step,
    Stream,
    apart,
    compiled,
    fooled,
    generators,
    iterate,
    rivals_lead,
    sift,
    watch,
)
from keras_traps.attacks.queries import leads
from keras_traps.models.inference import predict

# How much of a step is the gradient's; the rest goes on as the one before it.
_NEW = 0.75
_AXES = (1, 2, 3)


def on_what_stands(
    batch: Batch,
    ranks: Iterable[int],
    attempt: Callable[[Batch, IntArray, IntArray], Finished],
) -> Perturbed:
    """Makes attempts in turn, each on the examples that none before has fooled.

    Args:
        batch: What to work on. What is answered wrong already comes back as it is.
        ranks: Which rival each attempt is at: 0 for the class that is the most likely
            one after the true class on the clean image. Ranks that there are not are
            left out.
        attempt: Given a part of the batch, which rows of it these are and the rival of
            each; returns the clean image where it fails.

    Returns:
        The images that fooled, the clean image where none does, and the sum of steps.
    """
    outputs = predict(batch.model, batch.images)
    own = np.arange(outputs.shape[1]) == batch.labels[:, None]
    order = np.argsort(-np.where(own, -np.inf, outputs), axis=1, kind="stable")
    rivals = order[:, :-1].astype(np.int64)
    # Where that is no number, the attempt names the example.
    rows = np.flatnonzero(~(leads(outputs, batch.labels) > 0))
    images, iterations = batch.images.copy(), np.zeros(len(batch.ids), np.int64)
    for rank in ranks:
        if not len(rows) or rank >= rivals.shape[1]:
            break
        part = {
            name: getattr(batch, name)[rows] for name in ("images", "labels", "ids")
        }
        made = attempt(dataclasses.replace(batch, **part), rows, rivals[rows, rank])
        images[rows] = made.images
        iterations[rows] += made.iterations.numpy()
        rows = rows[(images[rows] == batch.images[rows]).all(axis=_AXES)]
    return Perturbed(images, iterations)


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGD(NormAttack):
    """Projected gradient descent with momentum that chooses its steps itself.

    Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks, 2020, algorithm 1. It starts at a random point of
    the ball's surface with steps of twice the radius; at the `gaps` between checkpoints
    a step is halved, and the search goes on from the best point, where the loss rose
    too seldom or stayed where it was. An example ends at its first success.
    """

    nb_iter: Count = 100
    nb_restarts: Count = 1
    # At which share of rises between two checkpoints, or less, a step is halved.
    rho: Share = 0.75
    name = "APGD"
    losses: ClassVar[tuple[Loss, ...]] = ("cross_entropy", "margin", "dlr")
    searches = True

    def perturb(self, batch: Batch) -> Perturbed:
        """Ascends from each start, where those before it did not do."""
        return self._ascend(batch, batch.loss, [0] * self.nb_restarts)

    def _ascend(
        self, batch: Batch, loss: Loss | None, ranks: Iterable[int]
    ) -> Perturbed:
        draws = generators(batch.ids, batch.seed, Stream.BALL_NOISE)
        norm = {"Linf": LINF, "L2": L2}[self.norm]
        gaps = np.array(checkpoint_gaps(self.nb_iter), np.int32)

        def attempt(part: Batch, rows: IntArray, rivals: IntArray) -> Finished:
            start = self._start(part.images, [draws[row] for row in rows])
            arguments = (
                *(part.images, start, part.labels, rivals, part.ids, gaps),
                numbers_of(self),
            )
            ascent = compiled(
                batch.model,
                ("ascent", norm, loss),
                lambda logits: _Ascent(logits, norm, loss).run,
                arguments,
            )
            made: Finished = ascent(*arguments)
            return made

        return on_what_stands(batch, ranks, attempt)

    def _start(
        self, images: FloatArray, draws: Sequence[np.random.Generator]
    ) -> FloatArray:
        """Draws a point of the surface for each image, which the box cuts off."""
        shape = images.shape[1:]
        ways: npt.NDArray[np.float64]
        if self.norm == "Linf":
            ways = np.stack([draw.uniform(-1, 1, shape) for draw in draws])
            lengths = np.abs(ways).max(axis=_AXES, keepdims=True)
        else:
            ways = np.stack([draw.standard_normal(shape) for draw in draws])
            lengths = np.sqrt(np.square(ways).sum(axis=_AXES, keepdims=True))
        moved = images + self.eps * ways / lengths
        return np.clip(moved, 0, 1).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGDT(APGD):
    """Auto-PGD towards one rival after the other, by the targeted ratio of logits.

    The ratio is equation 7 of its authors: the lead of the target over the true class
    as a share of the largest logit's lead over the mean of the third and fourth.
    """

    nb_targets: Count = 9  # how many rivals, the most likely ones on the clean image
    name = "APGD-T"
    losses = ()
    note = (
        "On models of fewer than four classes, which have no targeted ratio of logits, "
        "it follows the target's cross-entropy."
    )

    def perturb(self, batch: Batch) -> Perturbed:
        """Ascends towards each rival."""
        ranks = np.arange(self.nb_targets).repeat(self.nb_restarts)
        return self._ascend(batch, None, ranks.tolist())


def checkpoint_gaps(nb_iter: int) -> list[int]:
    """Returns for each step how many were made since a checkpoint, or 0 at no other.

    The authors' schedule: the first gap is 22 % of the steps, each is shorter by 3 %,
    and none is below 6 %.
    """
    gap, shortest, less = (max(nb_iter * share // 100, 1) for share in (22, 6, 3))
    gaps, step = [0] * nb_iter, 0
    while (step := step + gap) <= nb_iter:
        gaps[step - 1] = gap
        gap = max(gap - less, shortest)
    return gaps


class _Rows(NamedTuple):
    """The examples that are still worked on; the first axis is theirs."""

    position: tf.Tensor
    clean: tf.Tensor
    labels: tf.Tensor
    targets: tf.Tensor
    ids: tf.Tensor
    before: tf.Tensor  # where the last step began
    images: tf.Tensor
    gradient: tf.Tensor
    value: tf.Tensor  # of the loss
    best: tf.Tensor  # the images of the highest loss
    best_gradient: tf.Tensor
    best_value: tf.Tensor
    step: tf.Tensor
    rises: tf.Tensor  # of the loss, since the last checkpoint
    checked: tf.Tensor  # the highest loss at the last checkpoint
    halved: tf.Tensor  # whether the step was halved there


class _Ascent(NamedTuple):
    """The loop on a model, as a graph."""

    logits: Logits
    norm: Norm
    loss: Loss | None  # `None`: the targeted ratio of logits

    def run(
        self,
        clean: tf.Tensor,
        start: tf.Tensor,
        labels: tf.Tensor,
        targets: tf.Tensor,
        ids: tf.Tensor,
        gaps: tf.Tensor,
        settings: dict[str, tf.Tensor],
    ) -> Finished:
        position, eps = tf.range(tf.shape(clean)[0]), settings["eps"]
        look = apart(self.look)
        gradient, value, logits = look(start, labels, targets, ids)
        rows = _Rows(
            *(position, clean, labels, targets, ids, start),
            *(start, gradient, value) * 2,
            step=tf.ones_like(clean[:, :1, :1, :1]) * 2 * eps,
            rises=tf.zeros_like(position),
            checked=value,
            halved=tf.ones_like(position, tf.bool),
        )

        def advance(number: tf.Tensor, rows: _Rows, finished: Finished) -> Step[_Rows]:
            share = tf.where(number > 0, _NEW, 1.0)
            ahead = rows.images + rows.step * self.norm.step(rows.gradient)
            way = self.norm.project(ahead, rows.clean, eps) - rows.images
            way = share * way + (1 - share) * (rows.images - rows.before)
            images = self.norm.project(rows.images + way, rows.clean, eps)
            gradient, value, logits = look(images, rows.labels, rows.targets, rows.ids)
            rows = rows._replace(
                before=rows.images,
                images=images,
                gradient=gradient,
                value=value,
                rises=rows.rises + tf.cast(value > rows.value, tf.int32),
            )
            rows = _kept(rows, rows.best_value < value)
            result = rows.position, images, number + 1
            rows = tf.cond(
                gaps[number] > 0,
                lambda: _checked(rows, settings["rho"], gaps[number]),
                lambda: rows,
            )
            done = fooled(logits, rows.labels, False)
            return number + 1, *sift(done, rows, finished, result)

        finished = Finished(clean, tf.zeros_like(position))
        done = fooled(logits, labels, False)
        rows, finished = sift(done, rows, finished, (position, start, position * 0))
        number, rows, finished = iterate(
            rows, advance, finished=finished, steps=tf.size(gaps)
        )
        return finished.write(rows.position, rows.clean, number)

    def look(
        self, images: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor, ids: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the loss' gradient, its value, and the answers."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            logits = self.logits(watch(images, ids))
            if self.loss is None:
                value = targeted_dlr(logits, labels, targets)
            else:
                value = rivals_lead(logits, labels, self.loss)
        return tape.gradient(value, images), value, logits


def _kept(rows: _Rows, better: tf.Tensor) -> _Rows:
    where = better[:, None, None, None]
    return rows._replace(
        best=tf.where(where, rows.images, rows.best),
        best_gradient=tf.where(where, rows.gradient, rows.best_gradient),
        best_value=tf.where(better, rows.value, rows.best_value),
    )


def _checked(rows: _Rows, rho: tf.Tensor, gap: tf.Tensor) -> _Rows:
    """Halves the steps, and goes back, where the loss does not rise as it should."""
    # The authors' code compares the first loss with 0, their algorithm with that of the
    # start.
    seldom = tf.cast(rows.rises, tf.float32) <= rho * tf.cast(gap, tf.float32)
    stuck = ~rows.halved & (rows.best_value <= rows.checked)
    halved = seldom | stuck
    back = halved[:, None, None, None]
    return rows._replace(
        images=tf.where(back, rows.best, rows.images),
        gradient=tf.where(back, rows.best_gradient, rows.gradient),
        step=tf.where(back, rows.step / 2, rows.step),
        rises=tf.zeros_like(rows.rises),
        checked=rows.best_value,
        halved=halved,
    )


def targeted_dlr(logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Returns what is to rise so that a target leads over the true class."""
    if logits.shape[-1] < 4:
        return -rivals_lead(logits, targets, "cross_entropy")
    aim, own = (
        tf.gather(logits, classes, axis=-1, batch_dims=1)
        for classes in (targets, labels)
    )
    first, _, third, fourth = tf.unstack(tf.math.top_k(logits, 4).values, axis=-1)
    return (aim - own) / (first - (third + fourth) / 2 + DLR_LEAST)
