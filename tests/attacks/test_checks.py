import math
import re
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps._checks import check_count, check_flag, check_positive
from keras_traps.attacks import create
from tests.attacks.calling import ITERATIVE, run


@pytest.mark.parametrize("value", [1e-30, 1, 1e30])
def test_a_number_above_zero_passes(value: float) -> None:
    check_positive("eps", value)


@pytest.mark.parametrize("value", [0, -1e-30, math.inf, -math.inf, math.nan])
def test_a_number_that_is_not_positive_is_named(value: float) -> None:
    expected = (
        f"argument `eps`. Expected a finite number above 0. Received: eps={value}"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_positive("eps", value)


def test_a_count_passes_from_its_least_on() -> None:
    check_count("steps", 1)
    check_count("steps", 0, at_least=0)
    numpys: Any = np.int64(2)
    check_count("steps", numpys)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "Expected at least 1. Received: steps=0"),
        (-1, "Expected at least 1. Received: steps=-1"),
        (1.5, "Expected an integer. Received: steps=1.5"),
        (2.0, "Expected an integer. Received: steps=2.0"),
        ("2", "Expected an integer. Received: steps='2'"),
        (None, "Expected an integer. Received: steps=None"),
        (True, "Expected an integer. Received: steps=True"),
        (math.inf, "Expected an integer. Received: steps=inf"),
        (math.nan, "Expected an integer. Received: steps=nan"),
    ],
)
def test_a_count_that_is_none_is_named(value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"argument `steps`. {expected}")):
        check_count("steps", value)


def test_a_count_below_its_own_least_is_named() -> None:
    with pytest.raises(ValueError, match=r"Expected at least 2\. Received: classes=1"):
        check_count("classes", 1, at_least=2)


@pytest.mark.parametrize("value", [True, False])
def test_a_flag_passes(value: bool) -> None:
    check_flag("abort_early", value)


@pytest.mark.parametrize("value", ["no", 0, 1, None])
def test_a_flag_that_is_no_truth_value_is_named(value: Any) -> None:
    expected = "argument `abort_early`. Expected `True` or `False`. Received: "
    with pytest.raises(ValueError, match=f"{expected}abort_early={value!r}"):
        check_flag("abort_early", value)


_STEPS = {"eps": 0.1, "eps_iter": 0.05, "nb_iter": 2}
REQUIRED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("BIM", "PGD", "UMIFGSM", "DIM", "MIM-TI"), _STEPS),
    "FGSM": {"eps": 0.1},
    "RFGSM": {"eps": 0.1, "alpha": 0.05},
    "MIML2": {**_STEPS, "radius": 1.0},
    "UAP": {"eps": 0.1},
    "SPSA": {"eps": 0.1, "nb_iter": 2},
}


WHOLE = [
    ("CW2", "max_iterations"),
    ("UCW2", "binary_search_steps"),
    ("EAD", "max_iterations"),
    ("BLB", "binary_search_steps"),
    ("OM", "noise_count"),
    ("DeepFool", "max_iter"),
    ("DeepFool", "nb_candidate"),
    ("UAP", "nb_images"),
    ("SPSA", "nb_iter"),
    ("PGD", "nb_iter"),
    ("MIML2", "nb_iter"),
    ("MIM-TI", "kernlen"),
]


@pytest.mark.parametrize(("name", "setting"), WHOLE)
@pytest.mark.parametrize("value", [5.0, "5"])
def test_a_count_is_an_integer(name: str, setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{setting}`. Expected an integer"):
        create(name, **{**REQUIRED.get(name, {}), setting: value})


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("FGSM", "eps"),
        ("RFGSM", "alpha"),
        ("BIM", "eps_iter"),
        ("UMIFGSM", "decay_factor"),
        ("DIM", "prob"),
        ("MIML2", "radius"),
        ("JSMA", "theta"),
        ("CW2", "confidence"),
        ("UAP", "fooling_rate"),
        ("SPSA", "delta"),
    ],
)
@pytest.mark.parametrize("value", ["0.1", None, True])
def test_a_setting_that_is_no_number_is_named(
    name: str, setting: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=f"`{setting}`.*Received: {setting}={value!r}"):
        create(name, **{**REQUIRED.get(name, {}), setting: value})


def pooled(data_format: str, *, nested: bool = False) -> keras.Model:
    image = keras.Input((3, 8, 8))
    pool = keras.layers.GlobalAveragePooling2D(data_format=data_format, name="pool")
    inner = keras.Model(image, pool(image)) if nested else pool
    return keras.Model(image, keras.layers.Dense(2)(inner(image)), name="pooled")


@pytest.mark.parametrize("name", ["DIM", "MIM-TI", "DIM-TI"])
@pytest.mark.parametrize("nested", [False, True])
def test_an_attack_along_height_and_width_refuses_channels_first(
    name: str, nested: bool
) -> None:
    images = np.full((1, 3, 8, 8), 0.5, np.float32)
    expected = rf"`model`. {name} goes by .*'pooled', whose layer 'pool' has .*first"
    with pytest.raises(ValueError, match=expected):
        run(name, pooled("channels_first", nested=nested), images, [0], ITERATIVE)
    run(name, pooled("channels_last", nested=nested), images, [0], ITERATIVE)


@pytest.mark.parametrize("name", ["BIM", "MIM"])
def test_an_attack_on_each_pixel_takes_channels_first(name: str) -> None:
    images = np.full((1, 3, 8, 8), 0.5, np.float32)
    run(name, pooled("channels_first"), images, [0], ITERATIVE)
