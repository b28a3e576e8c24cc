"""Adam on a variable whose tanh is the image, so that it never leaves [0, 1]."""

import tensorflow as tf

from keras_traps.attacks.optimization import Attempt, Method, Rows, Standing, State

# cleverhans' and the authors': keeps black and white pixels from infinity.
_SHRINK = 0.999999

_FIRST_DECAY, _SECOND_DECAY, _EPSILON = 0.9, 0.999, 1e-8


class TanhAdam(Method):
    """Lowers the squared L2 distance plus c times a hinge.

    Reference:
        Carlini and Wagner, Towards evaluating the robustness of neural networks, 2017.
        Kingma and Ba, Adam: a method for stochastic optimization, 2015, algorithm 1
        in the form that ends section 2.
    """

    def start(self, rows: Rows) -> State:
        """Returns the clean images in tanh space, and Adam's two empty averages."""
        variable = tf.atanh((2 * rows.images - 1) * _SHRINK)
        return variable, tf.zeros_like(variable), tf.zeros_like(variable)

    def penalty(self, images: tf.Tensor, rows: Rows) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the images cost, and whether they succeed, both `(rows,)`."""
        paid = self.hinge(images, rows.labels, rows.ids)
        return paid, paid <= 0

    def step(self, rows: Rows, state: State, standing: Standing) -> Attempt:
        """Looks at the images, and moves the variable for the next look."""
        variable, first, second = state
        squashed = tf.tanh(variable)
        images = (squashed + 1) / 2
        change = images - rows.images
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            paid, success = self.penalty(images, rows)
        slope = 2 * change + standing.weighted(tape.gradient(paid, images))
        gradient = slope * (1 - squashed**2) / 2
        distance = tf.reduce_sum(change**2, axis=(1, 2, 3))
        first = _FIRST_DECAY * first + (1 - _FIRST_DECAY) * gradient
        second = _SECOND_DECAY * second + (1 - _SECOND_DECAY) * gradient**2
        time = tf.cast(standing.step + 1, tf.float32)
        rate = tf.sqrt(1 - _SECOND_DECAY**time) / (1 - _FIRST_DECAY**time)
        rate = (self.settings["learning_rate"] * rate)[:, None, None, None]
        moved = variable - rate * first / (tf.sqrt(second) + _EPSILON)
        return Attempt(
            state=(moved, first, second),
            images=images,
            distance=distance,
            success=success,
            loss=distance + standing.constant.value * paid,
        )
