"""How long, at what rates and how picked: the trainings of P and of the baselines."""

import dataclasses
import itertools
from typing import Any, Literal, Self, get_args

import keras

from keras_traps._checks import check_count, check_positive
from keras_traps.layers.luring_input import LurePreset
from keras_traps.luring.losses import check_known

Variant = Literal["stack", "auto", "ce", "luring"]
"""How M∘P is made, Section 4.2.

- `"stack"`: M∘P trained whole, by cross-entropy with the labels, from new weights.
- `"auto"`: P an autoencoder, trained by binary cross-entropy, before the frozen M.
- `"ce"`: P trained by cross-entropy to imitate the frozen M.
- `"luring"`: P trained with the luring loss before the frozen M.
"""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Adam's steps and rates."""

    steps: int
    batch_size: int
    learning_rates: tuple[float, ...]
    boundaries: tuple[int, ...] = ()
    cosine: bool = False

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_count("steps", self.steps)
        check_count("batch_size", self.batch_size)
        for rate in self.learning_rates:
            check_positive("learning_rates", rate)
        limits = (0, *self.boundaries, self.steps)
        rising = all(a <= b for a, b in itertools.pairwise(limits))
        fit = len(self.learning_rates) == len(self.boundaries) + 1
        if not (rising and fit) or (self.cosine and self.boundaries):
            raise ValueError(
                "Invalid value for argument `boundaries`. Expected rising steps, one "
                "fewer than `learning_rates`, none along a cosine. Received: "
                f"{self.boundaries} of {self.steps}, {len(self.learning_rates)} rates"
            )

    def scaled(self, steps: int) -> Self:
        """Returns a schedule of another length, its boundaries at the same shares."""
        check_count("steps", steps)
        boundaries = tuple(
            round(boundary * steps / self.steps) for boundary in self.boundaries
        )
        return dataclasses.replace(self, steps=steps, boundaries=boundaries)

    def optimizer(self) -> keras.optimizers.Adam:
        """Returns Adam with these rates."""
        schedules = keras.optimizers.schedules
        rate: Any = self.learning_rates[0]
        if self.cosine:
            warmup = self.steps // 25
            rate = schedules.CosineDecay(
                rate / 100 if warmup else rate,
                max(1, self.steps - warmup),
                alpha=0.01,
                warmup_target=rate if warmup else None,
                warmup_steps=warmup,
            )
        elif self.boundaries:
            rate = schedules.PiecewiseConstantDecay(
                list(self.boundaries), list(self.learning_rates)
            )
        return keras.optimizers.Adam(rate)


@dataclasses.dataclass(frozen=True)
class LureRecipe:
    """How a P is trained on a data set."""

    preset: LurePreset
    authors: Schedule
    short: Schedule
    luring_weight: float = 1.0
    validation_split: float = 0.17


LURE_RECIPES: dict[str, LureRecipe] = {
    "mnist": LureRecipe(
        "mnist",
        Schedule(50_000, 64, (1e-3, 2e-4, 4e-4), (35_000, 45_000)),
        Schedule(20_000, 32, (4e-3,), cosine=True),
    ),
    "svhn_cropped": LureRecipe(
        "svhn",
        Schedule(50_000, 256, (1e-4, 1e-5, 8e-6), (30_000, 40_000)),
        Schedule(6_000, 64, (2e-3,), cosine=True),
    ),
    "cifar10": LureRecipe(
        "cifar10",
        Schedule(150_000, 128, (1e-5, 5e-6, 8e-7), (50_000, 100_000)),
        Schedule(6_000, 64, (2e-3,), cosine=True),
        luring_weight=0.15,
    ),
    # Not the authors': to try it with. The preset is the one that takes 8x8 pixels; a
    # small width is enough.
    "digits": LureRecipe(
        "cifar10",
        Schedule(600, 64, (3e-3,)),
        Schedule(300, 64, (4e-3,), cosine=True),
        validation_split=0.0,
    ),
}
"""By data set. Images are moved as those of the target, see `VICTIM_RECIPES`."""

_BASELINES: dict[str, dict[str, Schedule]] = {
    # Their epochs in steps of what is left of the training images, 83 %.
    "stack": {
        "mnist": Schedule(5 * 1_778, 28, (1e-3,)),
        "svhn_cropped": Schedule(20 * 237, 256, (1e-2,)),
        "cifar10": Schedule(
            200 * 1_296, 32, (1e-1, 1e-2, 1e-3), (80 * 1_296, 120 * 1_296)
        ),
    },
    # On CIFAR-10 they have none.
    "auto": {
        "mnist": Schedule(50 * 390, 128, (1e-3,)),
        "svhn_cropped": Schedule(5 * 476, 128, (1e-3,)),
    },
}


def authors_schedule(variant: Variant, dataset: str) -> Schedule:
    """Returns what the authors' public code trains a variant with."""
    check_known("variant", variant, get_args(Variant))
    check_known("dataset", dataset, tuple(LURE_RECIPES))
    return _BASELINES.get(variant, {}).get(dataset, LURE_RECIPES[dataset].authors)
