"""NES and SPSA in few queries: steps along estimates of the gradient by outputs."""

import abc
import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import Even, LinfAttack, Positive
from keras_traps.attacks.gradient import check_step
from keras_traps.attacks.loop import Moments, adam
from keras_traps.attacks.queries import Example, Images, Search, SearchAttack

# As in `SPSA`.
_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class EstimateAttack(LinfAttack, SearchAttack, abc.ABC):
    """The template: the lead at random points and their opposites tells its slope.

    It stops at its first success, which a query of its own looks for before each
    estimate.
    """

    @abc.abstractmethod
    def _ways(self, draw: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Draws where the points of an estimate lie, `(points, *shape)`."""

    @property
    @abc.abstractmethod
    def _reach(self) -> float:
        """Returns how far along these ways."""

    @abc.abstractmethod
    def _climber(self) -> Callable[[Images], Images]:
        """Returns what makes one step after the other of slopes."""

    def search(self, example: Example) -> Search:
        """Ascends along estimates."""
        clean, found, draw = example
        image, climb = clean, self._climber()
        while True:
            ways = self._ways(draw, clean.shape)
            steps, half = self._reach * ways, len(ways)
            # A service takes no other pixels.
            leads = yield np.concatenate([image + steps, image - steps]).clip(0, 1)
            slope = np.tensordot(leads[:half] - leads[half:], ways, 1)
            moved = image + climb(slope)
            image = clean + np.clip(moved - clean, -self.eps, self.eps)
            image = np.clip(image, 0, 1)
            (lead,) = yield image[None]
            found[:] = image
            if lead > 0:
                return


@dataclasses.dataclass(frozen=True, kw_only=True)
class NES(EstimateAttack):
    """Steps of the sign of gradients that normally distributed points tell.

    Ilyas et al., Black-box Adversarial Attacks with Limited Queries and Information,
    2018, section 2.1.
    """

    eps_iter: Positive | None = None  # a quarter of `eps` where it is `None`
    # For few queries: the authors' are 0.001 and 50.
    sigma: Positive = 0.01  # standard deviation of a sample's change of a pixel
    nes_samples: Even = 20  # images that one estimate asks about
    name = "NES"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_step(self._step, self.eps)

    @property
    def _step(self) -> float:
        return self.eps / 4 if self.eps_iter is None else self.eps_iter

    @property
    def _reach(self) -> float:
        return self.sigma

    def _ways(self, draw: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        return draw.standard_normal((self.nes_samples // 2, *shape), np.float32)

    def _climber(self) -> Callable[[Images], Images]:
        return lambda slope: self._step * np.sign(slope)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskingSPSA(EstimateAttack):
    """SPSA in few queries, which are counted, and which a detector may reject.

    Adam's steps along what simultaneous perturbations tell (Uesato et al., Adversarial
    Risk and the Dangers of Evaluating Against Weak Attacks, 2018). Unlike `SPSA`, which
    is cleverhans', it starts at the clean image and stops at its first success.
    """

    learning_rate: Positive | None = None  # a quarter of `eps` where it is `None`
    delta: Positive | None = None  # how far a sample is in each pixel; likewise
    spsa_samples: Even = 20  # images that one estimate asks about
    name = "SPSA-Q"

    @property
    def _reach(self) -> float:
        return self.eps / 4 if self.delta is None else self.delta

    def _ways(self, draw: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        ups = draw.random((self.spsa_samples // 2, *shape), np.float32) < 0.5
        return np.where(ups, np.float32(1), np.float32(-1))

    def _climber(self) -> Callable[[Images], Images]:
        rate = self.eps / 4 if self.learning_rate is None else self.learning_rate
        settings = {"learning_rate": tf.constant(rate), "epsilon": _EPSILON}
        memory, number = Moments(tf.constant(0.0), tf.constant(0.0)), 0

        def climb(slope: Images) -> Images:
            nonlocal memory, number
            number += 1
            down = -tf.constant(slope, tf.float32)
            step, memory = adam(down, memory, tf.constant(float(number)), **settings)
            climbed: Images = -step.numpy()
            return climbed

        return climb
