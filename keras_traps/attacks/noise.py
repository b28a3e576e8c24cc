"""Random noise: what any attack in the same ball has to beat."""

import dataclasses
from typing import Literal

import numpy as np

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks.base import Batch, Count, LinfAttack, Perturbed
from keras_traps.attacks.loop import Stream, per_example
from keras_traps.attacks.queries import leads
from keras_traps.models.inference import predict

NoiseKind = Literal["uniform", "sign"]
"""Each value drawn evenly from the ball, or at its border, up or down."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise(LinfAttack):
    """Random noise in an L-infinity ball, drawn whatever the model answers.

    An example stops at its first success; where none is found it keeps the noise by
    which another class came nearest, for which alone outputs are looked at. The tries
    are its iterations. Some classifiers give way to noise that is alike over blocks of
    pixels sooner than to any other.
    """

    noise_kind: NoiseKind = "uniform"
    nb_restarts: Count = 1  # tries at most
    # Height and width, in pixels, of the squares that are moved alike; those at the
    # right and lower border are cut off. Each channel has its own noise.
    block_size: Count = 1
    name = "Noise"
    knowledge = "labels"
    needs_gradient = False

    @property
    def needs_channels_last(self) -> bool:
        """Whether there are blocks, which have a height and a width."""
        return self.block_size > 1

    def perturb(self, batch: Batch) -> Perturbed:
        """Draws until an example is fooled."""
        images, count = batch.images.copy(), len(batch.ids)
        best, iterations = np.full(count, -np.inf), np.zeros(count, np.int64)
        for number in range(self.nb_restarts):
            rows = np.flatnonzero(best <= 0)
            if not rows.size:
                break
            noise = self._noise(batch, rows, number)
            tried = np.clip(batch.images[rows] + noise, 0, 1).astype(np.float32)
            outputs = predict(batch.model, tried, batch_size=len(tried))
            lead = leads(outputs, batch.labels[rows])
            # An output that is not a number is kept too, for the caller to be told.
            better = ~(lead <= best[rows])
            images[rows[better]], best[rows[better]] = tried[better], lead[better]
            iterations[rows] += 1
        return Perturbed(images, iterations)

    def _noise(self, batch: Batch, rows: IntArray, number: int) -> FloatArray:
        """Returns the noise of a try, which no other try or example shares."""
        height, width, channels = batch.images.shape[1:]
        size = self.block_size
        shape = (-(-height // size), -(-width // size), channels)

        def draw(generator: np.random.Generator) -> FloatArray:
            own = np.random.default_rng([int(generator.integers(2**63)), number])
            values = own.uniform(-1, 1, shape)
            values = np.sign(values) if self.noise_kind == "sign" else values
            blocks = values.repeat(size, axis=0).repeat(size, axis=1)
            return (self.eps * blocks[:height, :width]).astype(np.float32)

        return per_example(draw, batch.ids[rows], batch.seed, Stream.NOISE)
