"""FAB: steps to the boundary with a rival that stay near the clean image."""

import dataclasses
import functools
from typing import NamedTuple

import tensorflow as tf

from keras_traps._checks import IntArray
from keras_traps.attacks.apgd import on_what_stands
from keras_traps.attacks.base import (
    Batch,
    Count,
    NormAttack,
    NormName,
    Perturbed,
    Positive,
    Share,
    numbers_of,
)
from keras_traps.attacks.loop import (
    Finished,
    Logits,
    Step,
    apart,
    compiled,
    fooled,
    iterate,
    rivals_lead,
    sift,
    watch,
)

# A smaller distance is not divided by.
_SHORTEST = 1e-8
# Pixels whose slope is a smaller share of the largest one do not move.
_FLAT = 1e-8
_TWICE = (2, 1, 1, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FAB(NormAttack):
    """Fast adaptive boundary attack, at one rival after the other.

    Croce and Hein, Minimally distorted adversarial examples with a fast adaptive
    boundary attack, 2020, from the clean image, with the boundaries of single rivals as
    in AutoAttack. Each step goes to where the linearised model has the rival level with
    the true class, from a point between the last one and the clean image; one that is
    beyond the boundary comes back a little. An example ends when it is fooled within
    `eps`; what is further away does not count.
    """

    nb_iter: Count = 100
    nb_targets: Count = 9  # how many rivals, the most likely ones on the clean image
    alpha_max: Share = 0.1  # of the way to the clean image, at most
    eta: Positive = 1.05  # of the way to the linear boundary
    beta: Share = 0.9  # how much of the change remains beyond the boundary
    name = "FAB"
    searches = True

    def perturb(self, batch: Batch) -> Perturbed:
        """Searches for the boundary with each rival."""

        def attempt(part: Batch, rows: IntArray, rivals: IntArray) -> Finished:
            del rows
            arguments = part.images, part.labels, rivals, part.ids, numbers_of(self)
            search = compiled(
                batch.model,
                ("boundary of rivals", self.norm),
                lambda logits: _Search(logits, self.norm).run,
                arguments,
            )
            made: Finished = search(*arguments)
            return made

        return on_what_stands(batch, range(self.nb_targets), attempt)


class _Rows(NamedTuple):
    """The examples that are still worked on; the first axis is theirs."""

    position: tf.Tensor
    clean: tf.Tensor
    labels: tf.Tensor
    targets: tf.Tensor
    ids: tf.Tensor
    images: tf.Tensor


class _Search(NamedTuple):
    """The search on a model, as a graph."""

    logits: Logits
    norm: NormName

    def run(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        targets: tf.Tensor,
        ids: tf.Tensor,
        settings: dict[str, tf.Tensor],
    ) -> Finished:
        position = tf.range(tf.shape(images)[0])
        step, rows, finished = iterate(
            _Rows(position, images, labels, targets, ids, images),
            functools.partial(self.advance, settings),
            finished=Finished(images, tf.zeros_like(position)),
            steps=settings["nb_iter"],
        )
        return finished.write(rows.position, rows.clean, step)

    def advance(
        self,
        settings: dict[str, tf.Tensor],
        number: tf.Tensor,
        rows: _Rows,
        finished: Finished,
    ) -> Step[_Rows]:
        """Makes one step, after which those that are fooled near enough leave."""
        slope, lead = apart(self.slope)(rows)
        from_clean = lead + _sum(slope * (rows.clean - rows.images))
        points, slopes = tf.concat([rows.images, rows.clean], 0), tf.tile(slope, _TWICE)
        gaps = tf.concat([lead, from_clean], 0)
        ways = to_plane(points, slopes, gaps, self.norm)
        near, far = tf.split(ways, 2)
        distances = tf.maximum(self.length(ways), _SHORTEST)
        one, other = tf.split(distances[:, None, None, None], 2)
        alpha = tf.minimum(one / (one + other), settings["alpha_max"])
        there = (1 - alpha) * (rows.images + settings["eta"] * near)
        there += alpha * (rows.clean + settings["eta"] * far)
        there = tf.clip_by_value(there, 0.0, 1.0)
        logits, change = self.logits(there), there - rows.clean
        beyond = rivals_lead(logits, rows.labels, "margin") > 0
        back = rows.clean + settings["beta"] * change
        images = tf.where(beyond[:, None, None, None], back, there)
        done = fooled(logits, rows.labels, False)
        done &= self.length(change) <= settings["eps"]
        result = rows.position, there, number + 1
        rows = rows._replace(images=images)
        return number + 1, *sift(done, rows, finished, result)

    def slope(self, rows: _Rows) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the slope of the rival's lead over the true class, and the lead."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(rows.images)
            logits = self.logits(watch(rows.images, rows.ids))
            aim, own = (
                tf.gather(logits, classes, axis=-1, batch_dims=1)
                for classes in (rows.targets, rows.labels)
            )
            lead = aim - own
        return tape.gradient(lead, rows.images), lead

    def length(self, change: tf.Tensor) -> tf.Tensor:
        """Returns `(rows,)`: how long changes are."""
        if self.norm == "Linf":
            return tf.reduce_max(tf.abs(change), axis=(1, 2, 3))
        return tf.sqrt(_sum(tf.square(change)))


def _sum(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(values, axis=(1, 2, 3))


def to_plane(
    points: tf.Tensor, slopes: tf.Tensor, values: tf.Tensor, norm: NormName
) -> tf.Tensor:
    """Returns the shortest change to where a linear function is 0, within [0, 1].

    Where the box holds no such point, the change is to the nearest value to 0. Pixel i
    moves by min(t s_i, r_i) against the slope w_i, with room r_i and a speed s_i of 1
    (L-infinity) or |w_i| (L2); the sum of |w_i| min(t s_i, r_i) is concave in t, so
    that Newton's method finds the exact t from below in few steps.

    Args:
        points: `(rows, height, width, channels)`, in [0, 1].
        slopes: Of the same shape: of the function, in each pixel.
        values: `(rows,)`: of the function at the points.
        norm: What is to be short.

    Returns:
        Changes, of the points' shape.
    """
    slopes *= tf.where(values < 0, -1.0, 1.0)[:, None, None, None]
    steepest = tf.reduce_max(tf.abs(slopes), axis=(1, 2, 3))
    # No square of a small number is 0, then.
    slopes = tf.math.divide_no_nan(slopes, steepest[:, None, None, None])
    gap = tf.math.divide_no_nan(tf.abs(values), steepest)
    weight = tf.where(tf.abs(slopes) > _FLAT, tf.abs(slopes), 0.0)
    speed = tf.sign(weight) if norm == "Linf" else weight
    room = tf.where(slopes > 0, points, 1 - points)

    def lengthen(time: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        full = time[:, None, None, None] * speed >= room
        spent = _sum(tf.where(full, weight * room, 0.0))
        rate = _sum(tf.where(full, 0.0, weight * speed))
        later = tf.math.divide_no_nan(gap - spent, rate)
        # It ends with rounding too: what is full stays full.
        return tf.maximum(time, later), tf.reduce_any(later > time)

    time, _ = tf.while_loop(
        lambda _, longer: longer, lengthen, (tf.zeros_like(gap), tf.constant(True))
    )
    way = tf.minimum(time[:, None, None, None] * speed, room)
    return -tf.sign(slopes) * way
