"""What Figure 7 (a) becomes with other attractors, other constants, other points."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import get_args

import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attractors import (
    AttractorCosines,
    AttractorSearch,
    Calibration,
    decoder_of,
    inject,
    is_attractor,
    loss_cosines,
    nearest_attractors,
    scores_of,
    soft_label_loss,
)
from keras_traps.attractors.analysis import DEFAULT_SEARCH
from keras_traps.attractors.analysis.nearest import Ends, Scale
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.figures.recalibration import recalibrated
from keras_traps.evaluation.figures.study import text_table
from keras_traps.evaluation.report.blocks import Table

# The small step's weight per grey level, where the large one's is 1.
_LIGHT = 0.25
_CALIBRATED_ON = 10_000
_ENDS: dict[Ends, str] = {
    "cut": "cut at the pixel range",
    "inside": "inside the range (qim_embed)",
    "beyond": "without a range",
}
_PARTS_OF_THE_WAY = (0.0, 0.25, 0.5, 0.75)
_POINTS = 64


@dataclasses.dataclass(frozen=True)
class Subject:
    """C and M with one choice of constants.

    Args:
        name: What the choice is called.
        defence: The two models.
    """

    name: str
    defence: Defence

    def cosines(self, images: FloatArray, search: AttractorSearch) -> AttractorCosines:
        """Compares the descent of J with the way to attractors, for C and for M.

        Args:
            images: `(images, ...)`, float32, in [0, 1].
            search: What counts as an attractor.

        Returns:
            The cosines, named `"C"` and `"M"`.
        """
        losses = {
            "C": soft_label_loss(
                scores_of(self.defence.classifier, self.defence.output)
            ),
            "M": soft_label_loss(scores_of(self.defence.trapped, "scores")),
        }
        return loss_cosines(self.defence.trapped, losses, images, search=search)


def heavy_on_the_large_step(
    defence: Defence, calibration: Calibration, train: Dataset
) -> Subject:
    """Chooses constants by the same rules, but for the weight of the small step.

    Args:
        defence: The classifier.
        calibration: Seed, messages, budget and the rest.
        train: Training images.

    Returns:
        C, and an M whose small step has a weight of 1/4 per grey level.
    """
    images = train.images[:_CALIBRATED_ON]

    def with_share(share: float) -> Calibration:
        return recalibrated(defence, calibration, images, small_step_share=share)

    # The weight is in proportion to the share.
    weight = with_share(1.0).settings.step_weights[
        int(np.argmin(calibration.settings.steps))
    ]
    found = with_share(_LIGHT / weight)
    trapped = inject(defence.classifier, found.settings)
    other = dataclasses.replace(defence, trapped=trapped)
    return Subject("heavy on the large step", other)


def variants(
    subjects: Sequence[Subject], images: FloatArray
) -> tuple[Table, dict[str, dict[str, float]]]:
    """Measures the cosine for every choice of what counts as an attractor.

    Args:
        subjects: The choices of constants.
        images: `(images, ...)`, float32, in [0, 1].

    Returns:
        A table, and the same numbers by name.
    """
    rows, numbers = [], {}
    for subject in subjects:
        small = min(decoder_of(subject.defence.trapped).steps)
        scales: tuple[Scale, ...] = (small, "whole")
        for ends in get_args(Ends):
            for scale in scales:
                found = subject.cosines(images, AttractorSearch(scale=scale, ends=ends))
                values = {
                    "m": float(np.nanmedian(found.feasible["M"])),
                    "m_with_infeasible": float(np.nanmedian(found.cosines["M"])),
                    "c": float(np.nanmedian(found.feasible["C"])),
                    "c_with_infeasible": float(np.nanmedian(found.cosines["C"])),
                    "grey_levels": 255 * float(np.median(found.distances)),
                }
                where = "all pixels" if scale == "whole" else f"step {scale:g}"
                *cosines, distance = values.values()
                cells = [*(f"{value:.2f}" for value in cosines), f"{distance:.0f}"]
                rows.append((subject.name, _ENDS[ends], where, *cells))
                numbers[f"{subject.name}; {_ENDS[ends]}; {where}"] = values
    table = text_table(
        f"Median cosine by what counts as an attractor, on the first {len(images):,} "
        "images. In brackets, with what would leave the pixel range left in the "
        "gradient. Distances are L2, in grey levels.",
        ["Constants", "Codewords", "Message on", "M", "(M)", "C", "(C)", "Distance"],
        rows,
        words=3,
    )
    return table, numbers


def on_the_way(subject: Subject, images: FloatArray) -> tuple[Table, dict[str, float]]:
    """Measures the cosine at points between images and their attractors.

    Args:
        subject: C and M.
        images: `(images, ...)`, float32, in [0, 1].

    Returns:
        A table, and the medians by the part of the way.
    """
    ends = nearest_attractors(subject.defence.trapped, images).images
    numbers = {}
    for part in _PARTS_OF_THE_WAY:
        points = np.clip(images + np.float32(part) * (ends - images), 0, 1)
        found = subject.cosines(points, DEFAULT_SEARCH)
        numbers[f"{part:.0%}"] = float(np.nanmedian(found.feasible["M"]))
    table = text_table(
        "Median cosine for M on the way to the nearest attractor",
        ["Part of the way", *numbers],
        [("Cosine", *(f"{value:.2f}" for value in numbers.values()))],
    )
    return table, numbers


def around_attractors(
    subject: Subject, images: FloatArray
) -> tuple[Table, dict[str, dict[str, float]]]:
    """Checks the definition of Section IV-B around images that hold a whole message.

    Args:
        subject: C and M.
        images: `(images, ...)`, float32, in [0, 1]: whose attractors to look at.

    Returns:
        A table, and the same numbers by loss.
    """
    decoder = decoder_of(subject.defence.trapped)
    search = AttractorSearch(scale="whole", ends="inside")
    found = nearest_attractors(decoder, images, search=search)
    descend = soft_label_loss(scores_of(subject.defence.trapped, "scores"))

    def minus_distance(points: tf.Tensor, goal: int) -> tf.Tensor:
        return -decoder.distances(points)[:, goal]

    def minus_loss(points: tf.Tensor, goal: int) -> tf.Tensor:
        return -descend(points, tf.fill([tf.shape(points)[0]], goal))

    radius = float(np.sqrt(images[0].size)) / decoder.pixel_scale
    rows, numbers = [], {}
    for name, loss in (
        ("minus the distance to the message", minus_distance),
        ("-J of M", minus_loss),
    ):
        cosines = np.stack(
            [
                is_attractor(
                    x0,
                    functools.partial(loss, goal=int(goal)),
                    1.0,
                    radius,
                    samples=_POINTS,
                ).cosines
                for x0, goal in zip(found.images, found.classes, strict=True)
            ]
        )
        smallest = np.nan_to_num(cosines, nan=-1.0).min(axis=1)
        numbers[name] = {
            "median": float(np.nanmedian(cosines)),
            "eps_0.5": float(np.mean(smallest >= 0.5)),
            "eps_0.9": float(np.mean(smallest >= 0.1)),
        }
        median, *shares = numbers[name].values()
        rows.append((name, f"{median:.2f}", *(f"{share:.0%}" for share in shares)))
    table = text_table(
        f"Around {len(images)} images that hold a message on all pixels, {_POINTS} "
        "random points each within a root mean square of 1 grey level: how many are "
        "ε-attractors",
        ["Loss that rises towards them", "Median cosine", "ε = 0.5", "ε = 0.9"],
        rows,
    )
    return table, numbers
