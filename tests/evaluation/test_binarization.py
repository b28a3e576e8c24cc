import functools
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps import attacks, attractors
from keras_traps._checks import FloatArray
from keras_traps.attractors import Key
from keras_traps.evaluation.binarization import binarization_test

EPS = 0.1
PGD = {"eps": EPS, "eps_iter": 0.02, "nb_iter": 20}


@pytest.fixture(scope="module")
def classifier() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 1))
    hidden = keras.layers.Dense(24)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(hidden))


@pytest.fixture(scope="module")
def images() -> FloatArray:
    draw = np.random.default_rng(0)
    return draw.uniform(0.2, 0.8, (6, 4, 4, 1)).astype(np.float32)


def pgd(**settings: Any) -> attacks.Attack:
    return attacks.create(
        "PGD", **{"eps": EPS, "eps_iter": 0.02, "nb_iter": 20, **settings}
    )


def test_a_sound_attack_finds_what_is_planted_and_chance_does_not(
    classifier: keras.Model, images: FloatArray
) -> None:
    found = binarization_test(classifier, pgd(), images, eps=EPS, num_inner=30)
    assert found.skipped == 0
    assert found.attack.total == 6
    assert found.attack.value == 1.0
    assert found.random.count <= 1


def test_an_attack_that_hardly_moves_finds_nothing(
    classifier: keras.Model, images: FloatArray
) -> None:
    weak = attacks.create("BIM", eps=EPS, eps_iter=EPS / 1000, nb_iter=1)
    found = binarization_test(classifier, weak, images, eps=EPS, num_inner=30)
    assert (found.attack.count, found.attack.total) == (0, 6)


def test_the_defence_stands_around_the_readout(
    classifier: keras.Model, images: FloatArray
) -> None:
    seen: list[keras.Model] = []

    def defend(model: keras.Model) -> keras.Model:
        seen.append(model)
        settings = attractors.TrapSettings(
            key=Key.from_seed(0),
            output="logits",
            step_weights=(1.0, 1.0),
            a0=-0.01,
            a1=0.0,
            a2=0.4,
        )
        return attractors.inject(model, settings)

    found = binarization_test(
        classifier,
        pgd(),
        images[:2],
        eps=EPS,
        num_inner=20,
        defend=defend,
        output="scores",
    )
    (model,) = seen
    assert model.output_shape == (None, 2)
    assert found.attack.total == 2


@pytest.mark.parametrize("inverted", [False, True])
def test_with_a_detector_the_planted_point_and_the_found_one_are_as_wanted(
    classifier: keras.Model, images: FloatArray, inverted: bool
) -> None:
    def flags(everything: bool, points: FloatArray) -> np.ndarray:
        return np.full(len(points), everything)

    test = functools.partial(
        binarization_test,
        classifier,
        pgd(),
        images[:2],
        eps=EPS,
        num_inner=20,
        inverted=inverted,
    )
    # Where it says the wanted thing of every point, the test is the plain one.
    assert test(flags=functools.partial(flags, inverted)).attack.value == 1.0
    # Where of none, there is nothing to plant.
    assert test(flags=functools.partial(flags, not inverted)).skipped == 2


WITHOUT_A_READOUT = keras.Sequential(
    [
        keras.Input((4, 4, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(2),
        keras.layers.Softmax(),
    ]
)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"eps": 0.0}, "eps"),
        ({"closeness": 1.0}, "closeness"),
        ({"num_inner": 0}, "num_inner"),
        ({"inverted": True}, "inverted"),
        ({"attack": attacks.create("DeepFool", max_iter=5)}, "attack"),
        ({"attack": attacks.create("LLC", eps=EPS)}, "attack"),
        ({"attack": pgd(eps=2 * EPS)}, "attack"),
        ({"classifier": WITHOUT_A_READOUT}, "classifier"),
    ],
)
def test_an_argument_out_of_range_is_named(
    classifier: keras.Model,
    images: FloatArray,
    settings: dict[str, Any],
    name: str,
) -> None:
    usual = {"classifier": classifier, "attack": pgd(), "images": images, "eps": EPS}
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        binarization_test(**{**usual, **settings})
