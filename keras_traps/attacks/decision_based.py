"""Attacks that see a model's answers alone: RayS and HopSkipJump."""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import LinfAttack, NormName
from keras_traps.attacks.queries import Asking, Example, Search, SearchAttack

# How closely RayS looks for the border: in the L2 length of the whole change.
_RAY_TOLERANCE = 1e-3
# HopSkipJump's share of noise in its first image is as close to the least as this.
_BLEND_TOLERANCE = 1e-3
# The L2 distance and the number of the samples of its first estimate, and the number
# that no estimate exceeds.
_FIRST_DELTA = 0.1
_FIRST_SAMPLES, _MOST_SAMPLES = 100, 10_000
# Of an example's samples, in one turn.
_AT_ONCE = 32

_Pixels = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RayS(LinfAttack, SearchAttack):
    """Search for the ray to a corner of the box on which the border is nearest.

    Chen and Gu, RayS: A Ray Searching Method for Hard-label Adversarial Attack, 2020,
    algorithm 3: the signs of a ray are turned around in one block of values after the
    other, in blocks of half the size each time, and kept where the border is nearer;
    where it lies is found by bisection. It stops at its first success within `eps`.
    """

    name = "RayS"
    labels_only = True
    knowledge = "labels"
    searches = True

    def search(self, example: Example) -> Search:
        """Turns signs around."""
        # One channel after the other, as the authors' images are.
        shape = np.moveaxis(example.clean, -1, 0).shape
        signs, radius = np.ones(example.clean.size, np.float32), 1.0
        for level in itertools.count():
            size = -(-signs.size // 2**level)
            for start in range(0, signs.size, size):
                turned = signs.copy()
                turned[start : start + size] *= -1
                ray = np.moveaxis(turned.reshape(shape), 0, -1)
                nearer = yield from self._nearer(example, ray, radius)
                if nearer <= self.eps:
                    return
                if nearer < radius:
                    signs, radius = turned, nearer

    def _nearer(
        self, example: Example, ray: FloatArray, radius: float
    ) -> Asking[float]:
        """Returns where the border is on a ray, or `radius` where it is not nearer."""
        low, high, middle = 0.0, math.inf, radius
        while high - low > _RAY_TOLERANCE / math.sqrt(ray.size):
            tried = np.clip(example.clean + middle * ray, 0, 1)
            (lead,) = yield tried[None]
            if lead > 0:
                high = middle
                if high <= self.eps:
                    example.found[:] = tried
                    break
            elif math.isinf(high):
                return radius
            else:
                low = middle
            middle = (low + high) / 2
        return high


@dataclasses.dataclass(frozen=True, kw_only=True)
class HopSkipJump(SearchAttack):
    """Walk along the border, towards the clean image.

    Chen, Jordan and Wainwright, HopSkipJumpAttack: A Query-Efficient Decision-Based
    Attack, 2020, algorithm 2 with the settings of the authors' code. From uniform noise
    that fools the model, mixed with the image, it steps along estimates of the border's
    normal, and comes back to the border by bisection. There is no ball: the nearest
    success that steps and bisections have come upon is the result.
    """

    norm: NormName = "L2"  # of the distance that is to be small
    name = "HopSkipJump"
    labels_only = True
    knowledge = "labels"
    searches = True

    def search(self, example: Example) -> Search:
        """Walks."""
        walk = _Walk(example, self.norm)
        image, delta = (yield from walk.start()), _FIRST_DELTA
        for number in itertools.count(1):
            root = math.sqrt(number)
            samples = min(int(_FIRST_SAMPLES * root), _MOST_SAMPLES)
            normal = yield from walk.normal(image, delta, samples)
            moved = yield from walk.step(image, normal, walk.distance(image) / root)
            delta = walk.distance(moved) / image.size
            image = yield from walk.to_border(moved)


class _Walk:
    """What HopSkipJump does for an example; models are asked in float32."""

    def __init__(self, example: Example, norm: NormName) -> None:
        self.clean = example.clean.astype(np.float64)
        self.found = example.found
        self.draw = example.draw
        self.norm = norm
        self.nearest = math.inf

    def distance(self, image: _Pixels) -> float:
        """Measures the change of an image."""
        change = np.abs(image - self.clean)
        return float(change.max() if self.norm == "Linf" else np.linalg.norm(change))

    def fools(self, image: _Pixels) -> Asking[bool]:
        """Asks about an image, which is kept if it is the nearest success."""
        (lead,) = yield image[None]
        if lead > 0 and (distance := self.distance(image)) < self.nearest:
            self.found[:], self.nearest = image, distance
        return bool(lead > 0)

    def start(self) -> Asking[_Pixels]:
        """Draws noise until it fools, and leads it to the border."""
        while True:
            noise = self.draw.random(self.clean.shape)
            if (yield from self.fools(noise)):
                break
        mixed = yield from self.bisect(self.mix(noise), 1.0, _BLEND_TOLERANCE)
        return (yield from self.to_border(mixed))

    def to_border(self, image: _Pixels) -> Asking[_Pixels]:
        """Comes back to the border from an image that fools, on its side."""
        if self.norm == "L2":
            return (yield from self.bisect(self.mix(image), 1.0, image.size**-1.5))

        def cut(radius: float) -> _Pixels:
            return np.clip(image, self.clean - radius, self.clean + radius)

        high = self.distance(image)
        return (yield from self.bisect(cut, high, high * image.size**-2.0))

    def mix(self, image: _Pixels) -> Callable[[float], _Pixels]:
        """Returns what makes images of shares of this one."""
        return lambda share: (1 - share) * self.clean + share * image

    def bisect(
        self, make: Callable[[float], _Pixels], high: float, tolerance: float
    ) -> Asking[_Pixels]:
        """Returns what is made of the least number that is found to fool, as `high`."""
        low = 0.0
        while high - low > tolerance:
            middle = (low + high) / 2
            if (yield from self.fools(make(middle))):
                high = middle
            else:
                low = middle
        return make(high)

    def normal(self, image: _Pixels, delta: float, samples: int) -> Asking[_Pixels]:
        """Estimates the border's normal from answers at the distance `delta`."""
        told, ways, towards = 0.0, np.zeros_like(image), np.zeros_like(image)
        for start in range(0, samples, _AT_ONCE):
            shape = min(_AT_ONCE, samples - start), *image.shape
            if self.norm == "L2":
                drawn = self.draw.standard_normal(shape)
            else:
                drawn = self.draw.uniform(-1, 1, shape)
            drawn /= np.sqrt((drawn**2).sum(axis=(1, 2, 3), keepdims=True))
            near = np.clip(image + delta * drawn, 0, 1)
            answers = yield near
            way = (near - image) / delta
            told += answers.sum()
            ways += way.sum(axis=0)
            towards += np.tensordot(answers, way, 1)
        # Where all answers are alike their mean is no baseline.
        if abs(told) < samples:
            towards -= told / samples * ways
        if self.norm == "Linf":
            return np.sign(towards)
        return towards / max(np.linalg.norm(towards), np.finfo(np.float64).tiny)

    def step(self, image: _Pixels, normal: _Pixels, length: float) -> Asking[_Pixels]:
        """Halves a step until it ends at a success."""
        while True:
            moved = np.clip(image + length * normal, 0, 1)
            if (yield from self.fools(moved)):
                return moved
            length /= 2
