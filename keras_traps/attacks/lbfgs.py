"""The box-constrained L-BFGS attack, through SciPy."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.optimize import Bounds, minimize
from threadpoolctl import threadpool_limits

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import Batch, Kind, Perturbed, TargetRule
from keras_traps.attacks.constants import first_constant, next_constant
from keras_traps.attacks.loop import once_per_model, watched
from keras_traps.attacks.losses import Logits
from keras_traps.attacks.search_attack import ConstantSearchAttack
from keras_traps.attacks.success import fooled
from keras_traps.attacks.together import run_together

# How many examples are optimised at once. It bounds the memory of SciPy's histories,
# and a batch of this size keeps a processor busy.
_AT_ONCE = 64

Pixels = npt.NDArray[np.float64]


class _Look(NamedTuple):
    """An image that an optimiser wants to know about.

    Args:
        row: Which example of the batch it belongs to.
        image: `(height, width, channels)`, float32.
    """

    row: int
    image: FloatArray


class _Seen(NamedTuple):
    """What the model makes of it.

    Args:
        cost: The cross-entropy of the target.
        gradient: That of the cost, of the shape of the image.
        success: Whether the answer is the target.
    """

    cost: float
    gradient: FloatArray
    success: bool


Ask = Callable[[_Look], _Seen]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLB(ConstantSearchAttack):
    """L-BFGS in the box of all images, towards a given class.

    It minimises the squared L2 distance plus c times the cross-entropy of the target.
    Whether a c has succeeded is seen where the optimiser ends; of all images that it
    looks at, the nearest success is kept. What counts as iterations are the gradients.
    The defaults are cleverhans'.

    Args:
        binary_search_steps: How many c to try, at least 1. Defaults to `5`.
        max_iterations: How many iterations of L-BFGS with each c at most, at least 1.
            Defaults to `1000`.
        initial_const: The first c, above 0. Defaults to `1e-2`.

    Reference:
        Szegedy et al., Intriguing properties of neural networks, 2014.
        Zhu et al., Algorithm 778: L-BFGS-B, 1997.
    """

    binary_search_steps: int = 5
    max_iterations: int = 1000
    initial_const: float = 1e-2
    name: ClassVar[str] = "BLB"
    kind: ClassVar[Kind] = "TA"
    target_rule: ClassVar[TargetRule] = "random"

    def perturb(self, batch: Batch) -> Perturbed:
        """Searches for the nearest success, each example in a thread of its own."""
        shape = batch.images.shape[1:]
        look = once_per_model(
            batch.model, "cross-entropy", lambda logits: _compile(logits, shape)
        )

        def answer(looks: list[_Look]) -> list[_Seen]:
            rows = [one.row for one in looks]
            seen = look(
                tf.constant(np.stack([one.image for one in looks])),
                tf.constant(batch.labels[rows]),
                tf.constant(batch.ids[rows]),
            )
            return [_Seen(*one) for one in zip(*(x.numpy() for x in seen), strict=True)]

        searches = [_Search(self, row, image) for row, image in enumerate(batch.images)]
        # SciPy's vectors are short: more threads of BLAS only get in each other's way,
        # and take six times as long.
        with threadpool_limits(1, user_api="blas"):
            run_together([search.run for search in searches], answer, at_once=_AT_ONCE)
        return Perturbed(
            np.stack([search.best for search in searches]),
            np.array([search.gradients for search in searches]),
        )


class _Search:
    """The search for one example.

    Args:
        attack: The settings.
        row: Which example of the batch it is.
        image: The clean image.
    """

    def __init__(self, attack: BLB, row: int, image: FloatArray) -> None:
        self.attack = attack
        self.row = row
        self.image = image
        self.clean = image.reshape(-1).astype(np.float64)
        self.best = image
        self.distance = np.inf
        self.gradients = 0

    def run(self, ask: Ask) -> None:
        """Tries one c after the other, unless the answer is the target already."""
        if ask(_Look(self.row, self.image)).success:
            return
        constant = first_constant(
            tf.constant(self.attack.initial_const, tf.float32), tf.constant(1)
        )
        searches = tf.constant(self.attack.binary_search_steps)
        for _ in range(self.attack.binary_search_steps):
            found = self.minimise(float(constant.value[0]), ask)
            constant = next_constant(constant, tf.constant([found]), searches)

    def minimise(self, const: float, ask: Ask) -> bool:
        """Runs the optimiser with one c; returns whether it ends at a success."""

        def objective(pixels: Pixels) -> tuple[float, Pixels]:
            self.gradients += 1
            seen = self.look(pixels, ask)
            change = pixels - self.clean
            gradient = const * seen.gradient.reshape(-1).astype(np.float64)
            value = float(change @ change) + const * float(seen.cost)
            return value, gradient + 2 * change

        end = minimize(
            objective,
            self.clean,
            method="L-BFGS-B",
            jac=True,
            bounds=Bounds(0, 1),
            options={"maxiter": self.attack.max_iterations},
        )
        return bool(self.look(end.x, ask).success)

    def look(self, pixels: Pixels, ask: Ask) -> _Seen:
        """Shows the model an image, and keeps it if it is the nearest success."""
        image = pixels.astype(np.float32).reshape(self.image.shape)
        seen = ask(_Look(self.row, image))
        distance = float(np.sum((image - self.image) ** 2))
        if seen.success and distance < self.distance:
            self.best, self.distance = image, distance
        return seen


def _compile(
    logits: Logits, shape: tuple[int, ...]
) -> Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    row = tf.TensorSpec((None,), tf.int64)

    @tf.function(
        input_signature=[tf.TensorSpec((None, *shape), tf.float32), row, row],
        autograph=False,
    )
    def look(
        images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            answers = watched(logits, ids)(images)
            cost = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, answers)
        success = fooled(answers, labels, tf.constant(True))
        return cost, tape.gradient(cost, images), success

    return look
