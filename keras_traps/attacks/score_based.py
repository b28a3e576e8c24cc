"""Attacks that see a model's outputs: Square by random search, NES by estimates."""

import dataclasses
import itertools
import math

import numpy as np

from keras_traps.attacks.base import Even, LinfAttack, Positive, Share
from keras_traps.attacks.gradient import check_step
from keras_traps.attacks.queries import Example, QueryAttack, Search

_SIGNS = np.array([-1, 1], np.float32)
# After so many of 10,000 squares the share of the pixels that one covers is halved.
_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square(LinfAttack, QueryAttack):
    """Random search by squares in which each channel moves by `eps`, up or down.

    Andriushchenko et al., Square Attack: a query-efficient black-box adversarial attack
    via random search, 2020, in the L-infinity ball. It starts with vertical stripes,
    keeps a square that lessens the margin of the true class, and stops at its first
    success. Squares shrink as `nb_queries` are used up, as in the authors' code;
    AutoAttack's shrink as if these were 10,000. They lie at the right and lower border
    too, which both leave out.
    """

    p_init: Share = 0.8  # of the pixels: what the first square covers
    name = "Square"
    needs_channels_last = True

    def search(self, example: Example) -> Search:
        """Draws squares."""
        clean, found, draw = example
        height, width, channels = clean.shape
        signs = draw.choice(_SIGNS, (1, width, channels)).repeat(height, axis=0)
        best = -math.inf
        for number in itertools.count():
            tried = np.clip(clean + self.eps * signs, 0, 1)
            (lead,) = yield tried[None]
            if lead > best:
                best, kept = lead, signs
                found[:] = tried
            if best > 0:
                return
            halvings = np.searchsorted(_HALVED, number * 10_000 // self.nb_queries)
            share = self.p_init / 2**halvings
            side = round(math.sqrt(share * height * width))
            side = min(max(side, 1), height, width)
            top = draw.integers(height - side, endpoint=True)
            left = draw.integers(width - side, endpoint=True)
            square = (slice(top, top + side), slice(left, left + side))
            colour = draw.choice(_SIGNS, channels)
            signs = kept.copy()
            # One that changes nothing is not worth a query.
            signs[square] = -colour if (kept[square] == colour).all() else colour


@dataclasses.dataclass(frozen=True, kw_only=True)
class NES(LinfAttack, QueryAttack):
    """Steps of the sign of estimated gradients.

    Ilyas et al., Black-box Adversarial Attacks with Limited Queries and Information,
    2018, section 2.1: the margin of the true class at normally distributed points
    around the image and at their opposites tells its slope. It stops at its first
    success, which a query of its own looks for before each estimate.
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

    def search(self, example: Example) -> Search:
        """Ascends along estimates."""
        clean, found, draw = example
        image = clean
        half = self.nes_samples // 2
        while True:
            ways = draw.standard_normal((half, *clean.shape), np.float32)
            steps = self.sigma * ways
            leads = yield np.concatenate([image + steps, image - steps])
            slope = np.tensordot(leads[:half] - leads[half:], ways, 1)
            moved = image + self._step * np.sign(slope)
            image = clean + np.clip(moved - clean, -self.eps, self.eps)
            image = np.clip(image, 0, 1)
            (lead,) = yield image[None]
            found[:] = image
            if lead > 0:
                return
