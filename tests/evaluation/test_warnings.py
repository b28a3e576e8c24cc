from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from keras_traps.evaluation.runner import WorstCase
from keras_traps.evaluation.subjects import Examples, model_subject
from keras_traps.evaluation.warnings import find_doubts, find_flags, find_warnings
from keras_traps.rates import Rate


def cell(
    attack: str,
    subject: str = "paper",
    *,
    fooled: int = 100,
    unseen: tuple[int, int] = (0, 0),
    of: int = 100,
    first: int = 0,
    still: int = 0,
) -> pd.DataFrame:
    """The first images are fooled, the first of these unseen at each rate."""
    number = np.arange(of)
    columns: dict[str, Any] = {
        "subject": subject,
        "attack": attack,
        "integrated": subject == "integrated",
        "id": first + number,
        "success": number < fooled,
        "linf": np.where(number < still, 0, 0.1),
        "flagged_0.05": number >= unseen[0],
        "flagged_0.005": number >= unseen[1],
    }
    return pd.DataFrame(columns)


def found(*cells: pd.DataFrame) -> list[str]:
    return find_warnings(pd.concat(cells, ignore_index=True))


SINGLE, THOUSAND = cell("FGSM", fooled=50), cell("FGSM", fooled=500, of=1000)
# The first 200 are easier, and PGD fools all of them that SPSA does.
BLIND = cell("SPSA", "integrated", fooled=38, of=200)
PAPER = cell("PGD", unseen=(2, 5))


@pytest.mark.parametrize(
    "cells",
    [
        [cell("FGSM", "undefended", fooled=60), cell("PGD", "undefended", fooled=95)],
        [cell("ILLC", "undefended", fooled=10)],
        # Two of 200 may stay as they are; others return a clean image where they fail.
        [cell("FGSM", "undefended", of=200, still=2)],
        [cell("CW2", "undefended", still=100)],
        # Five images to none may be chance, a point is little, another variant is
        # another matter.
        [SINGLE, cell("BIM", fooled=45)],
        [THOUSAND, cell("PGD", fooled=490, of=1000)],
        [SINGLE, cell("BIM", "integrated", fooled=10)],
        # Where the gradient helps nothing is told; images that one alone met do not
        # count.
        [cell("PGD", unseen=(9, 60)), cell("SPSA", unseen=(9, 51))],
        [BLIND, cell("PGD", "integrated", fooled=150, of=1000)],
        [BLIND, cell("PGD", "integrated", fooled=0, first=200)],
        # What does not succeed is not counted, and another attack is no measure.
        [PAPER, cell("PGD", "margin", fooled=0, unseen=(3, 11))],
        [PAPER, cell("BIM", "margin", unseen=(90, 90))],
    ],
)
def test_a_plausible_outcome_raises_nothing(cells: list[pd.DataFrame]) -> None:
    assert found(*cells) == []


LESS = "BIM (44.0%) is weaker than FGSM (50.0%) on the paper variant, on the 100 images"


@pytest.mark.parametrize(
    ("told", "cells"),
    [
        ("undefended classifier on 94.0%", [cell("BIM", "undefended", fooled=94)]),
        ("FGSM left 1.5% of", [cell("FGSM", "undefended", of=200, still=3)]),
        (LESS, [SINGLE, cell("BIM", fooled=44)]),
        ("PGD (48.9%) is weaker", [THOUSAND, cell("PGD", fooled=489, of=1000)]),
        (
            "through unnoticed at 5.0% false positives on 9.0% of images of the paper",
            [cell("PGD", unseen=(2, 50)), cell("SPSA", unseen=(9, 51))],
        ),
        (
            "on 19.0% of images of the integrated variant and PGD on 14.0%, of the 200",
            [BLIND, cell("PGD", "integrated", fooled=28, of=1000)],
        ),
        (
            "at 0.5% false positives on 11.0% of 100 images in the margin variant",
            [PAPER, cell("PGD", "margin", unseen=(3, 11))],
        ),
    ],
)
def test_what_an_expert_would_question_is_told(
    cells: list[pd.DataFrame], told: str
) -> None:
    (warning,) = found(*cells)
    assert told in warning


def doubts(change: keras.layers.Layer, square: int) -> list[str]:
    """Returns what is doubted in a model, with so many of 1000 images for Square."""
    images = np.random.default_rng(0).uniform(0.4, 0.6, (30, 2, 3, 1)).astype("f4")
    classes = np.arange(30) % 4
    examples = Examples(np.arange(30), images, classes, classes, classes)
    image = keras.Input((2, 3, 1))
    dense = keras.layers.Dense(4)
    model = keras.Model(image, change(dense(keras.layers.Flatten()(image))))
    dense.set_weights([np.random.default_rng(1).normal(0, 1, (6, 4)), np.zeros(4)])
    felled = {"APGD": 100, "APGD-T": 50, "FAB": 0, "Square": square}
    tried = {"APGD": 1000, "APGD-T": 900, "FAB": 850, "Square": 850}
    left = WorstCase("model", tried, felled, Rate(sum(felled.values()), 1000))
    return find_doubts(model_subject(model, examples, output="scores"), left)


class Noisy(keras.layers.Layer):
    """Adds noise in any mode."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs + tf.random.normal(tf.shape(inputs), stddev=0.01)


def test_plain_logits_raise_no_doubt() -> None:
    # Two of 1000 images may be chance.
    assert doubts(keras.layers.Identity(), square=2) == []


@pytest.mark.parametrize(
    ("told", "change", "square"),
    [
        ("The outputs differ between passes by up to 0.0", Noisy(), 0),
        ("in [0, 1] and have sum 1", keras.layers.Softmax(), 0),
        (
            "On 8 of 8 clean images that are answered right",
            keras.layers.ReLU(threshold=1e3),
            0,
        ),
        ("got through with 0.3% of all images", keras.layers.Identity(), 3),
    ],
)
def test_what_autoattack_warns_of_is_told(
    told: str, change: keras.layers.Layer, square: int
) -> None:
    (warning,) = doubts(change, square)
    assert told in warning


def frame_of(**shares: list[bool]) -> pd.DataFrame:
    parts = []
    for named, wrong in shares.items():
        level, attack, eps = named.split("_")
        parts.append(
            pd.DataFrame(
                {
                    "level": level,
                    "attack": attack,
                    "eps": float(eps) / 10,
                    "id": range(len(wrong)),
                    "misclassified": wrong,
                    "linf": [float(eps) / 10] * len(wrong),
                }
            )
        )
    return pd.concat(parts)


def test_an_attack_that_asks_is_compared_with_the_best_that_follows_gradients() -> None:
    some, many = [True] * 10 + [False] * 40, [True] * 40 + [False] * 10
    weak = frame_of(gradients_PGD_1=some, scores_Square_1=many)
    (flag,) = find_flags(weak)
    assert "Square" in flag
    assert "80.0% of 50 images and PGD" in flag
    assert not find_flags(
        frame_of(gradients_PGD_1=some, gradients_APGD_1=many, scores_Square_1=many)
    )


def test_success_that_falls_and_images_that_stay_are_told() -> None:
    some, many = [True] * 10 + [False] * 40, [True] * 40 + [False] * 10
    (flag,) = find_flags(frame_of(gradients_PGD_1=many, gradients_PGD_2=some))
    assert "80.0% at 0.1, 20.0% at 0.2" in flag
    still = frame_of(gradients_PGD_1=some).assign(linf=0.0)
    assert any("left 100.0%" in flag for flag in find_flags(still))
