"""How long, at what rates and on what images the authors train the component P."""

import dataclasses
import itertools
from typing import Literal, Self, get_args

import keras

from keras_traps._checks import check_number
from keras_traps.luring.augmentation import Augmentation

Variant = Literal["stack", "auto", "ce", "luring"]
"""How M∘P is made, Section 4.2.

- `"stack"`: M∘P trained whole, by cross-entropy with the labels, from new weights.
- `"auto"`: P an autoencoder, trained by binary cross-entropy, before the frozen M.
- `"ce"`: P trained by cross-entropy to imitate the frozen M.
- `"luring"`: P trained with the luring loss before the frozen M.
"""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Adam's steps and rates.

    Args:
        steps: How many in all.
        batch_size: Images per step.
        learning_rates: One more than there are boundaries, each above 0.
        boundaries: The steps after which the next rate is taken; none smaller than the
            one before it, from 0 to `steps`.

    Raises:
        ValueError: If a number is out of its range or the counts do not fit.
    """

    steps: int
    batch_size: int
    learning_rates: tuple[float, ...]
    boundaries: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_number(self.steps, name="steps", at_least=1)
        check_number(self.batch_size, name="batch_size", at_least=1)
        for rate in self.learning_rates:
            check_number(rate, name="learning_rates", above=0.0)
        limits = (0, *self.boundaries, self.steps)
        rising = all(a <= b for a, b in itertools.pairwise(limits))
        if len(self.learning_rates) != len(self.boundaries) + 1 or not rising:
            raise ValueError(
                "Invalid value for argument `boundaries`. Expected rising steps within "
                f"the {self.steps} of the training, one fewer than there are rates. "
                f"Received: boundaries={self.boundaries}, "
                f"learning_rates={self.learning_rates}"
            )

    def scaled(self, steps: int) -> Self:
        """Returns a schedule of another length, its boundaries at the same shares.

        Args:
            steps: How many steps it is to have.

        Returns:
            A schedule with the same rates and batch size.
        """
        boundaries = tuple(
            round(boundary * steps / self.steps) for boundary in self.boundaries
        )
        return dataclasses.replace(self, steps=steps, boundaries=boundaries)

    def optimizer(self) -> keras.optimizers.Adam:
        """Returns Adam with these rates.

        Returns:
            A new optimizer, that takes no note of how many steps there are.
        """
        if not self.boundaries:
            return keras.optimizers.Adam(self.learning_rates[0])
        return keras.optimizers.Adam(
            keras.optimizers.schedules.PiecewiseConstantDecay(
                list(self.boundaries), list(self.learning_rates)
            )
        )


@dataclasses.dataclass(frozen=True)
class CosineSchedule:
    """Adam with a rate that rises, and then falls like a cosine: for few steps.

    Not the authors'. A tenth of their steps at their rates ends far from where all of
    them do; a higher rate that falls to nothing comes closer.

    Args:
        steps: How many in all.
        batch_size: Images per step.
        peak_rate: The highest learning rate, above 0, reached after 4 % of the steps,
            starting at a hundredth of it, where it ends too.

    Raises:
        ValueError: If a number is out of its range.
    """

    steps: int
    batch_size: int
    peak_rate: float

    def __post_init__(self) -> None:
        check_number(self.steps, name="steps", at_least=1)
        check_number(self.batch_size, name="batch_size", at_least=1)
        check_number(self.peak_rate, name="peak_rate", above=0.0)

    def scaled(self, steps: int) -> Self:
        """Returns a schedule of another length with the same rates.

        Args:
            steps: How many steps it is to have.

        Returns:
            A schedule with the same peak and batch size.
        """
        return dataclasses.replace(self, steps=steps)

    def optimizer(self) -> keras.optimizers.Adam:
        """Returns Adam with these rates.

        Returns:
            A new optimizer.
        """
        warmup = self.steps // 25
        return keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                self.peak_rate / 100 if warmup else self.peak_rate,
                max(1, self.steps - warmup),
                alpha=0.01,
                warmup_target=self.peak_rate if warmup else None,
                warmup_steps=warmup,
            )
        )


LURE_SCHEDULES: dict[str, Schedule] = {
    "mnist": Schedule(50_000, 64, (1e-3, 2e-4, 4e-4), (35_000, 45_000)),
    "svhn_cropped": Schedule(50_000, 256, (1e-4, 1e-5, 8e-6), (30_000, 40_000)),
    "cifar10": Schedule(150_000, 128, (1e-5, 5e-6, 8e-7), (50_000, 100_000)),
    # Not the authors': to try it with.
    "digits": Schedule(600, 64, (3e-3,)),
}
"""By data set: what the authors' public code trains C_E and luring with."""

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
    """Returns what the authors' public code trains a variant with.

    Args:
        variant: Which.
        dataset: The data set: one of `LURE_SCHEDULES`.

    Returns:
        Their schedule; where they have none of the variant's own, that of P.

    Raises:
        ValueError: If there is no such variant or data set.
    """
    for name, value, known in [
        ("variant", variant, get_args(Variant)),
        ("dataset", dataset, tuple(LURE_SCHEDULES)),
    ]:
        if value not in known:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected one of {known}. "
                f"Received: {name}={value!r}"
            )
    return _BASELINES.get(variant, {}).get(dataset, LURE_SCHEDULES[dataset])


SHORT_SCHEDULES: dict[str, CosineSchedule] = {
    "mnist": CosineSchedule(20_000, 32, 4e-3),
    "svhn_cropped": CosineSchedule(6_000, 64, 2e-3),
    "cifar10": CosineSchedule(6_000, 64, 2e-3),
    "digits": CosineSchedule(300, 64, 4e-3),
}
"""By data set: what a processor affords, whatever the variant. Not the authors'.

Those of SVHN and CIFAR-10 are for a P that starts from the weights of an autoencoder.
"""

LURE_VALIDATION: dict[str, float] = {
    "mnist": 0.17,
    "svhn_cropped": 0.17,
    "cifar10": 0.17,
    "digits": 0.0,
}
"""The share of images by which the authors' public code picks the best P, by data set;
there is none for the digits. Their autoencoders are not picked.
"""

LURING_WEIGHTS: dict[str, float] = {
    "mnist": 1.0,
    "svhn_cropped": 1.0,
    "cifar10": 0.15,
    "digits": 1.0,
}
"""lambda by data set, Section 4.2; that of the digits is not the paper's."""

LURE_AUGMENTATIONS: dict[str, Augmentation] = {
    "mnist": Augmentation(),
    "svhn_cropped": Augmentation(),
    "cifar10": Augmentation(10.0, 5 / 32),
    "digits": Augmentation(),
}
"""By data set: how the authors' public code moves the images of a training, whatever
the variant; the digits' are none.
"""
