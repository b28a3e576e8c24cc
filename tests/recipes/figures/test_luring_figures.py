import keras
import numpy as np
import pandas as pd
import pytest
from figures.luring_figures import (
    direction_counts,
    figure_4,
    figure_5,
    figure_6,
    opposite_directions,
    sensitivity,
    slopes,
)
from keras import layers

from keras_traps.layers import LuringInput
from keras_traps.models.outputs import subtract_row_maximum


def rows(
    variant: str, ids: list[int], augmented: list[int], target: list[int], l0: int = 0
) -> pd.DataFrame:
    """Answers to FGSM's images of class 0."""
    where = {"threat": "luring", "variant": variant, "attack": "FGSM", "eps": 0.3}
    answers = {"id": ids, "label": 0, "augmented": augmented, "target": target}
    return pd.DataFrame({**where, **answers, "l0": l0}, index=range(len(ids)))


# Image 3 does not fool Auto's M∘P, image 5 was not attacked there.
AUTO = rows("auto", [1, 2, 3, 4], [1, 1, 0, 1], [1, 1, 1, 0], l0=7)
LURING = rows("luring", [1, 2, 3, 4, 5], [1, 1, 1, 2, 1], [0, 2, 0, 2, 0], l0=9)
BOTH = pd.concat([LURING, AUTO], ignore_index=True)


def test_figure_4_has_the_rates_of_images_that_fool_every_source_model() -> None:
    whitebox = BOTH.assign(threat="whitebox", augmented=1)
    first = BOTH.assign(attack="MIM", augmented=1, target=0)
    frame = pd.concat([first, BOTH, whitebox], ignore_index=True)
    auto, luring, *others = figure_4("mnist", frame).numbers["rows"]
    assert [row["attack"] for row in others] == ["MIM", "MIM"]
    assert (auto["variant"], auto["images"], auto["attacked"]) == ("auto", 3, 4)
    assert (luring["variant"], luring["images"], luring["attacked"]) == ("luring", 3, 5)
    assert (auto["dr"], auto["adq"]) == pytest.approx((1 / 3, 1 / 3))
    assert (luring["dr"], luring["adq"]) == pytest.approx((2 / 3, 1 / 3))


def test_a_radius_that_not_all_variants_have_is_left_out_and_told() -> None:
    result = figure_4("mnist", pd.concat([BOTH, LURING.assign(eps=0.4)]))
    assert {row["eps"] for row in result.numbers["rows"]} == {0.3}
    assert result.words == {"left_out": "FGSM 0.4"}
    with pytest.raises(ValueError, match="all of Auto, Luring at one radius"):
        figure_4("mnist", pd.concat([AUTO, LURING.assign(eps=0.4)]))


def test_where_no_image_fools_all_there_is_no_rate() -> None:
    found = figure_4("mnist", pd.concat([rows("auto", [1], [0], [0]), LURING]))
    rates = [(row["dr"], row["adq"]) for row in found.numbers["rows"]]
    assert rates == [(None, None)] * 2


def test_figure_5_has_the_changes_of_images_that_fool_their_own_model() -> None:
    pgd = BOTH.assign(attack="PGD")
    found = figure_5("mnist", pd.concat([BOTH.assign(l0=1), pgd])).numbers["rows"]
    assert [(row["variant"], row["images"], row["median"]) for row in found] == [
        ("auto", 3, 7.0),
        ("luring", 5, 9.0),
    ]
    with pytest.raises(ValueError, match="--attacks=FGSM,PGD,MIM,MIML2"):
        figure_5("mnist", BOTH)


# Weights of three classes whose sum is 0 for each value.
FIRST = np.array([[1.0, 1, -2], [-2, 1, 1], [3, 1, -4], [1, 0, -1]])
SECOND = np.array([[-1.0, 1, 0], [2, 1, -3], [3, 0, -3], [0, -1, 1]])


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((count, 2, 2, 1), np.float32)


def linear(weights: np.ndarray, *shape: int) -> keras.Model:
    """Sums of the 4 values of an image, weighted, of a shape."""
    dense = layers.Dense(weights.shape[1], use_bias=False)
    inputs = keras.Input((2, 2, 1))
    outputs = dense(layers.Flatten()(inputs))
    model = keras.Model(inputs, layers.Reshape(shape)(outputs) if shape else outputs)
    dense.set_weights([weights])
    return model


def test_what_is_added_to_all_logits_does_not_count() -> None:
    generator = np.random.default_rng(0)
    plain = [linear(generator.normal(size=(4, 5))) for _ in range(2)]
    shifted = [keras.Model(m.input, subtract_row_maximum(m.output)) for m in plain]
    counts, same = (
        opposite_directions(of[0], of[1], images()) for of in (plain, shifted)
    )
    assert counts.any()
    np.testing.assert_array_equal(same, counts)
    moved = linear(FIRST + np.array([[5.0], [4.0], [3.0], [2.0]]))
    found = slopes(moved, images(), np.full(3, 2))
    expected = np.broadcast_to(FIRST[:, 2].reshape(2, 2, 1), found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_products_below_zero_are_counted_and_zeros_are_not() -> None:
    counts = opposite_directions(linear(FIRST), linear(SECOND), images())
    np.testing.assert_array_equal(counts, [[2, 0, 2]] * 3)
    assert not opposite_directions(linear(FIRST), linear(FIRST), images()).any()
    # Their products round to 0.
    tiny = np.array([[1e-30, -1e-30]] * 4)
    counts = opposite_directions(linear(tiny), linear(-tiny), images(1))
    np.testing.assert_array_equal(counts, [[4, 4]])


def test_the_sensitivity_is_the_length_of_a_column_of_the_jacobian() -> None:
    # Each value of the image depends on one pixel, so no sign cancels another.
    jacobian = np.diag([1.0, -2.0, 0.0, 4.0])
    found = sensitivity(linear(jacobian, 2, 2, 1), images(), seed=0)
    np.testing.assert_allclose(found, [[[1, 2], [0, 4]]] * 3, atol=1e-6)
    # With more than one, within what 64 draws of signs leave open: 1 / sqrt(64) each.
    mixed = np.random.default_rng(1).normal(size=(4, 4))
    expected = np.linalg.norm(mixed, axis=1).reshape(2, 2)
    found = sensitivity(linear(mixed, 2, 2, 1), images(1), seed=0)[0]
    np.testing.assert_allclose(found, expected, rtol=0.4)


def test_figure_6_has_shares_of_the_background_and_correlations() -> None:
    target = linear(FIRST)
    # P looks as M's first logit does, and its image stays within the range.
    like_m = np.abs(FIRST[:, 0]) / 4
    inputs = keras.Input((2, 2, 1))
    lure = LuringInput(network=linear(np.diag(like_m), 2, 2, 1), name="lure")
    variants = {"luring": keras.Model(inputs, target(lure(inputs)))}
    x = np.array([0.0, 0.05, 0.5, 1.0], np.float32).reshape(1, 2, 2, 1)
    numbers = figure_6("digits", target, variants, x, np.array([0])).numbers
    found = numbers["maps"]
    share = (like_m[:2] ** 2).sum() / (like_m**2).sum()
    for name in ("target", "luring"):
        assert found[name]["background_share"]["median"] == pytest.approx(share, 1e-5)
    assert found["target"]["correlation_with_target"] is None
    assert found["luring"]["correlation_with_target"]["median"] == pytest.approx(1)
    assert numbers["background_pixels"] == 0.5


def test_the_counts_say_how_often_luring_has_more_than_all_others() -> None:
    weights = {"stack": -FIRST, "ce": FIRST, "luring": SECOND}
    variants = {name: linear(of) for name, of in weights.items()}
    numbers = direction_counts("x", linear(FIRST), variants, images()).numbers
    # Of 4 values and 3 classes, 11 slopes of FIRST are not 0.
    medians = {name: row["median"] for name, row in numbers["shares"].items()}
    assert medians == pytest.approx({"stack": 11 / 12, "ce": 0.0, "luring": 4 / 12})
    assert numbers["luring"] == {
        "Stack, C_E": {"more": 0, "fewer": 0},
        "C_E": {"more": 3, "fewer": 0},
    }
    alone = {"ce": variants["ce"]}
    assert direction_counts("x", linear(FIRST), alone, images()).numbers["luring"] == {}
