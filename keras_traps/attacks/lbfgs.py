"""The box-constrained L-BFGS attack, through SciPy."""

import dataclasses
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.optimize import Bounds, minimize
from threadpoolctl import threadpool_limits

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import Batch, Kind, Perturbed, TargetRule
from keras_traps.attacks.loop import Logits, fooled, once_per_model, watch
from keras_traps.attacks.optimization import Constant, ConstantSearchAttack

# How many examples are optimised at once. It bounds the memory of SciPy's histories,
# and a batch of this size keeps a processor busy.
_AT_ONCE = 64

Pixels = npt.NDArray[np.float64]


class Look(NamedTuple):
    """An image that an optimiser wants to know about, of an example of the batch."""

    row: int
    image: FloatArray


class Seen(NamedTuple):
    """The cross-entropy of the target, its gradient, and whether that is answered."""

    cost: float
    gradient: FloatArray
    success: bool


Ask = Callable[[Look], Seen]


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
        row = tf.TensorSpec((None,), tf.int64)
        images = tf.TensorSpec((None, *batch.images.shape[1:]), tf.float32)
        look = once_per_model(
            batch.model,
            "cross-entropy",
            lambda logits: tf.function(
                _Cost(logits).look, input_signature=[images, row, row], autograph=False
            ),
        )

        def answer(looks: list[Look]) -> list[Seen]:
            rows = [one.row for one in looks]
            seen = look(
                tf.constant(np.stack([one.image for one in looks])),
                tf.constant(batch.labels[rows]),
                tf.constant(batch.ids[rows]),
            )
            return [Seen(*one) for one in zip(*(x.numpy() for x in seen), strict=True)]

        searches = [_Search(self, row, image) for row, image in enumerate(batch.images)]
        # SciPy's vectors are short: more threads of BLAS only get in each other's way,
        # and take six times as long.
        with threadpool_limits(1, user_api="blas"):
            run_together([search.run for search in searches], answer, at_once=_AT_ONCE)
        return Perturbed(
            np.stack([search.best for search in searches]),
            np.array([search.gradients for search in searches]),
        )


class _Cost(NamedTuple):
    """What is asked of a model, as a graph."""

    logits: Logits

    def look(
        self, images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            answers = self.logits(watch(images, ids))
            cost = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, answers)
        return cost, tape.gradient(cost, images), fooled(answers, labels, True)


class _Search:
    """The search for one example, of which `row` is the place in the batch."""

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
        if ask(Look(self.row, self.image)).success:
            return
        constant = Constant.first(
            tf.constant(self.attack.initial_const, tf.float32), tf.constant(1)
        )
        searches = tf.constant(self.attack.binary_search_steps)
        for _ in range(self.attack.binary_search_steps):
            found = self.minimise(float(constant.value[0]), ask)
            constant = constant.next(tf.constant([found]), searches)

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

    def look(self, pixels: Pixels, ask: Ask) -> Seen:
        """Shows the model an image, and keeps it if it is the nearest success."""
        image = pixels.astype(np.float32).reshape(self.image.shape)
        seen = ask(Look(self.row, image))
        distance = float(np.sum((image - self.image) ** 2))
        if seen.success and distance < self.distance:
            self.best, self.distance = image, distance
        return seen


class _Asked(NamedTuple):
    search: int
    look: Look
    answer: "Future[Seen]"


class _Ended(NamedTuple):
    failure: BaseException | None


def run_together(
    searches: Sequence[Callable[[Ask], None]],
    answer: Callable[[list[Look]], Sequence[Seen]],
    *,
    at_once: int,
) -> None:
    """Runs optimisers that look at one image at a time, with batched answers.

    Each search runs in a thread of its own and is given a function that looks at one
    image; `at_once` are under way, and one that ends makes place for the next. `answer`
    is called in this thread with one look of each, in the order of the searches: the
    same lists at every call, however the threads are scheduled. What it or a search
    raises first is raised; the other searches are stopped at their next look.
    """
    messages: queue.SimpleQueue[_Asked | _Ended] = queue.SimpleQueue()

    def run(number: int) -> None:
        def ask(look: Look) -> Seen:
            asked = _Asked(number, look, Future())
            messages.put(asked)
            return asked.answer.result()

        try:
            searches[number](ask)
        except BaseException as failure:
            messages.put(_Ended(failure))
        else:
            messages.put(_Ended(None))

    with ThreadPoolExecutor(at_once) as threads:
        # A thread that is free takes the first search that waits, so that the searches
        # under way are the first ones that have not ended.
        for number in range(len(searches)):
            threads.submit(run, number)
        _serve(messages, answer, len(searches), at_once)


def _serve(
    messages: "queue.SimpleQueue[_Asked | _Ended]",
    answer: Callable[[list[Look]], Sequence[Seen]],
    left: int,
    at_once: int,
) -> None:
    """Answers until all searches have ended, also after a failure: none may hang."""
    failure: BaseException | None = None
    waiting: list[_Asked] = []
    while left:
        try:
            message = messages.get()
            if isinstance(message, _Ended):
                left -= 1
                failure = failure or message.failure
            else:
                waiting.append(message)
            complete = waiting and len(waiting) == min(at_once, left)
            if complete and failure is None:
                # Not as they came: another place in the batch may round otherwise.
                waiting.sort(key=lambda asked: asked.search)
                answers = answer([asked.look for asked in waiting])
                for asked, seen in list(zip(waiting, answers, strict=True)):
                    asked.answer.set_result(seen)
                waiting = []
        except BaseException as error:
            failure = failure or error
        if failure is not None:
            for asked in waiting:
                if not asked.answer.done():
                    asked.answer.set_exception(failure)
            waiting = []
    if failure is not None:
        raise failure
