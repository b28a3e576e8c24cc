"""The box-constrained L-BFGS attack, through SciPy."""

import dataclasses
import functools
import operator
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.optimize import Bounds, minimize
from threadpoolctl import threadpool_limits

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import Attack, Batch, Count, Perturbed, Positive
from keras_traps.attacks.loop import Logits, compiled, fooled, watch
from keras_traps.attacks.optimization import Constant

# How many examples are optimised at once: it bounds the memory of SciPy's histories.
_AT_ONCE = 64

Pixels = npt.NDArray[np.float64]


class Seen(NamedTuple):
    """The cross-entropy of the target, its gradient, and whether that is answered."""

    cost: float
    gradient: FloatArray
    success: bool


Ask = Callable[[FloatArray], Seen]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLB(Attack):
    """L-BFGS in the box of all images, towards a given class.

    It minimises the squared L2 distance plus c times the cross-entropy of the target
    (Szegedy et al., 2014). Of all images that the optimiser looks at, the nearest
    success is kept; what counts as iterations are the gradients.
    """

    binary_search_steps: Count = 5
    max_iterations: Count = 1000  # of L-BFGS with each c
    initial_const: Positive = 1e-2
    name = "BLB"
    kind = "TA"
    target_rule = "random"
    searches = True

    def perturb(self, batch: Batch) -> Perturbed:
        """Searches for the nearest success, each example in a thread of its own."""
        look = compiled(
            batch.model,
            "cross-entropy",
            lambda logits: functools.partial(_cost, logits),
            (batch.images, batch.labels, batch.ids),
        )

        def answer(rows: list[int], images: list[FloatArray]) -> list[Seen]:
            seen = look(np.stack(images), batch.labels[rows], batch.ids[rows])
            return [Seen(*one) for one in zip(*(x.numpy() for x in seen), strict=True)]

        searches = [_Search(self, image) for image in batch.images]
        # SciPy's vectors are short: more threads of BLAS only get in each other's way,
        # and take six times as long.
        with threadpool_limits(1, user_api="blas"):
            run_together([search.run for search in searches], answer, at_once=_AT_ONCE)
        return Perturbed(
            np.stack([search.best for search in searches]),
            np.array([search.gradients for search in searches]),
        )


def _cost(
    logits: Logits, images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        answers = logits(watch(images, ids))
        cost = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, answers)
    return cost, tape.gradient(cost, images), fooled(answers, labels, True)


class _Search:
    """The search for one example."""

    def __init__(self, attack: BLB, image: FloatArray) -> None:
        self.attack = attack
        self.image = image
        self.clean = image.reshape(-1).astype(np.float64)
        self.best = image
        self.distance = np.inf
        self.gradients = 0

    def run(self, ask: Ask) -> None:
        """Tries one c after the other, unless the answer is the target already."""
        if ask(self.image).success:
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
        # SciPy keeps to its bounds but for rounding.
        image = np.clip(pixels, 0, 1).astype(np.float32).reshape(self.image.shape)
        seen = ask(image)
        distance = float(np.sum((image - self.image) ** 2))
        if seen.success and distance < self.distance:
            self.best, self.distance = image, distance
        return seen


def run_together(
    searches: Sequence[Callable[[Ask], None]],
    answer: Callable[[list[int], list[FloatArray]], Sequence[Seen]],
    *,
    at_once: int,
) -> None:
    """Runs optimisers that look at one image at a time, with batched answers.

    Each search runs in a thread of its own; `at_once` are under way, and one that ends
    makes place for the next. `answer` is called in this thread with the numbers of the
    searches and a look of each: the same lists at every call, however the threads are
    scheduled. What it or a search raises first is raised, and stops the others.
    """
    messages: queue.SimpleQueue[tuple[int, FloatArray, Future[Seen]] | Future[None]]
    messages = queue.SimpleQueue()

    def run(number: int) -> None:
        def ask(image: FloatArray) -> Seen:
            seen: Future[Seen] = Future()
            messages.put((number, image, seen))
            return seen.result()

        searches[number](ask)

    failure: BaseException | None = None
    waiting: list[tuple[int, FloatArray, Future[Seen]]] = []
    left = len(searches)
    with ThreadPoolExecutor(at_once) as threads:
        # A thread that is free takes the first search that waits, so that the searches
        # under way are the first ones that have not ended.
        for number in range(len(searches)):
            threads.submit(run, number).add_done_callback(messages.put)
        # Until all searches have ended, also after a failure: none may hang.
        while left:
            try:
                message = messages.get()
                if isinstance(message, Future):
                    left -= 1
                    failure = failure or message.exception()
                else:
                    waiting.append(message)
                if failure is None and 0 < len(waiting) == min(at_once, left):
                    # Not as they came: another place may round otherwise.
                    waiting.sort(key=operator.itemgetter(0))
                    rows, images, asked = zip(*waiting, strict=True)
                    answers = answer(list(rows), list(images))
                    for seen, told in zip(asked, answers, strict=True):
                        seen.set_result(told)
                    waiting = []
            except BaseException as error:
                failure = failure or error
            if failure is not None:
                for *_, seen in waiting:
                    if not seen.done():
                        seen.set_exception(failure)
                waiting = []
    if failure is not None:
        raise failure
