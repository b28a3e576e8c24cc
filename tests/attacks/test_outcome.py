from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import create, names, registry
from keras_traps.attacks.outcome import Outcome, judge
from tests.attacks.calling import run
from tests.attacks.victims import SHAPE, TWO_CLASSES, some_images

Floats = npt.NDArray[np.float32]

SEARCH: dict[str, Any] = {
    "initial_const": 1.0,
    "binary_search_steps": 5,
    "max_iterations": 100,
}
SEARCHES: dict[str, dict[str, Any]] = {
    "DeepFool": {"overshoot": 0.0},
    "BLB": SEARCH,
    "CW2": SEARCH,
    "UCW2": SEARCH,
    "EAD": SEARCH,
    "OM": {**SEARCH, "learning_rate": 0.01, "noise_count": 2},
}

CLEAN = np.full((4, 1, 3, 1), 0.5, np.float32)
CLEAN[:, 0, 0] = 0.6
MADE = CLEAN.copy()
MADE[1, 0, 1], MADE[2, 0, 2], MADE[3, 0, 1] = 0.9, 0.9, 0.55


def brightest(images: Floats) -> Floats:
    """Has one output for each of three pixels."""
    return images.reshape(-1, 3)


def judged(targeted: bool, searches: bool) -> Outcome:
    return judge(
        brightest,
        CLEAN,
        MADE,
        np.arange(4),
        np.full(4, 1 if targeted else 0),
        who="It",
        targeted=targeted,
        searches=searches,
    )


@pytest.mark.parametrize("searches", [True, False])
def test_an_answer_counts_that_is_the_target_or_not_the_true_class(
    searches: bool,
) -> None:
    away, towards = judged(False, searches), judged(True, searches)
    assert away.success.tolist() == [False, True, True, False]
    assert towards.success.tolist() == [False, True, False, False]
    assert away.answers.tolist() == [0, 1, 2, 0]
    assert towards.answers.tolist() == [0, 1, 0 if searches else 2, 0]


def test_what_a_search_failed_with_is_the_clean_image() -> None:
    made = MADE.copy()
    found = judged(targeted=True, searches=True)
    np.testing.assert_array_equal(found.images, [CLEAN[0], MADE[1], *CLEAN[2:]])
    np.testing.assert_array_equal(MADE, made)
    others = judged(targeted=True, searches=False)
    np.testing.assert_array_equal(others.images, MADE)


def test_a_search_is_what_gives_back_the_clean_image() -> None:
    searching = {name for name in names() if registry._ATTACKS[name].searches}
    assert searching == {*SEARCHES, "JSMA"}


def with_a_softmax_of_half_precision() -> keras.Model:
    """Answers with class 0 wherever the two probabilities round to the same."""
    image = keras.Input(SHAPE)
    dense = keras.layers.Dense(2, use_bias=False)
    logits = dense(keras.layers.Flatten()(image))
    outputs = keras.layers.Softmax(dtype="bfloat16")(logits)
    dense.set_weights([TWO_CLASSES])
    return keras.Model(image, outputs)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_success_that_rounding_takes_is_a_clean_image(name: str) -> None:
    model, images = with_a_softmax_of_half_precision(), some_images(8)
    assert (model(images).numpy().argmax(axis=1) == 0).all()
    classes = [int(create(name).targeted)] * 8
    settings = SEARCHES[name]
    result = run(name, model, images, classes, settings, output="probabilities")
    np.testing.assert_array_equal(
        result.answers, model(result.images).numpy().argmax(axis=1)
    )
    failed = ~result.success
    assert failed.any()
    np.testing.assert_array_equal(result.images[failed], images[failed])
    assert not result.l2[failed].any()
