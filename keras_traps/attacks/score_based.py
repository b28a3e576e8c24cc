"""NES: steps along estimates of the gradient by a model's outputs."""

import dataclasses

import numpy as np

from keras_traps.attacks.base import Even, LinfAttack, Positive
from keras_traps.attacks.gradient import check_step
from keras_traps.attacks.queries import Example, Search, SearchAttack


@dataclasses.dataclass(frozen=True, kw_only=True)
class NES(LinfAttack, SearchAttack):
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
