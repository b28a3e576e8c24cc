"""Random noise: what any attack in the same ball has to beat."""

import dataclasses
from typing import Literal

import numpy as np

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks.base import Batch, Count, LinfAttack, Perturbed
from keras_traps.attacks.loop import Stream, per_example
from keras_traps.models.inference import predict

NoiseKind = Literal["uniform", "sign"]
"""Each value drawn evenly from the ball, or at its border, up or down."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise(LinfAttack):
    """Random noise in an L-infinity ball; asks for answers alone.

    An example stops at its first success; where none is found it keeps the noise by
    which another class came nearest. The tries are its iterations.
    """

    noise_kind: NoiseKind = "uniform"
    nb_restarts: Count = 1  # tries at most
    name = "Noise"
    needs_gradient = False

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
            own = np.arange(outputs.shape[1]) == batch.labels[rows, None]
            lead = np.where(own, -np.inf, outputs).max(axis=1) - outputs[own]
            # An output that is not a number is kept too, for the caller to be told.
            better = ~(lead <= best[rows])
            images[rows[better]], best[rows[better]] = tried[better], lead[better]
            iterations[rows] += 1
        return Perturbed(images, iterations)

    def _noise(self, batch: Batch, rows: IntArray, number: int) -> FloatArray:
        """Returns the noise of a try, which no other try or example shares."""
        shape = batch.images.shape[1:]

        def draw(generator: np.random.Generator) -> FloatArray:
            own = np.random.default_rng([int(generator.integers(2**63)), number])
            values = own.uniform(-1, 1, shape)
            values = np.sign(values) if self.noise_kind == "sign" else values
            return (self.eps * values).astype(np.float32)

        return per_example(draw, batch.ids[rows], batch.seed, Stream.NOISE)
