from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_traps.layers import LuringInput
from keras_traps.layers.luring_input import LurePreset

MNIST, COLOUR = (28, 28, 1), (32, 32, 3)


def images_of(shape: tuple[int, ...], count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((count, *shape), np.float32)


@pytest.mark.parametrize(
    ("preset", "shape", "parameters"),
    [
        ("mnist", MNIST, 4_385),
        ("svhn", COLOUR, 14_841_487),
        ("cifar10", COLOUR, 14_841_487),
    ],
)
def test_a_preset_has_the_authors_size(
    preset: LurePreset, shape: tuple[int, ...], parameters: int
) -> None:
    lure = LuringInput(preset)
    lure.build((None, *shape))
    assert lure.count_params() == parameters


@pytest.mark.parametrize(
    ("preset", "shape"), [("mnist", MNIST), ("svhn", COLOUR), ("cifar10", (10, 10, 2))]
)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_an_image_comes_out_as_one_of_its_shape_in_float32(
    preset: LurePreset, shape: tuple[int, ...], policy: str
) -> None:
    # One filter alone may be 0 on every pixel: then all pixels of P(x) are the same.
    keras.utils.set_random_seed(0)
    lure = LuringInput(preset, width=1 / 16, dtype=policy)
    images = images_of(shape)
    mapped = lure(images, training=True)
    symbol = lure(keras.Input(shape))
    assert mapped.shape == images.shape
    assert symbol.shape == (None, *shape)
    assert mapped.dtype == symbol.dtype == "float32"
    assert 0 <= np.min(mapped) < np.max(mapped) <= 1
    assert all(weight.dtype == "float32" for weight in lure.weights)


@pytest.mark.parametrize(
    ("shape", "preset"),
    [
        # The sizes of seven public models.
        ((30, 30, 3), "cifar10"),
        ((64, 64, 1), "svhn"),
        ((32, 32, 3), "svhn"),
        ((256, 256, 3), "svhn"),
        ((224, 224, 3), "svhn"),
        ((28, 28, 1), "mnist"),
        ((96, 96, 3), "svhn"),
        ((28, 28, 3), "cifar10"),
        ((28, 28), "mnist"),
        ((8, 8, 1), "svhn"),
        ((9, 13, 3), "svhn"),
        ((27, 28), "svhn"),
    ],
)
def test_without_a_preset_the_one_for_the_size_is_taken(
    shape: tuple[int, ...], preset: str
) -> None:
    lure = LuringInput(width=1 / 512)
    lure.build((None, *shape))
    network: Any = lure._network
    assert network.name == f"luring_{preset}"
    assert network.output_shape == (None, *shape)
    assert lure.until_sigmoid().output_shape == (None, *shape)
    images = images_of(shape, 1)
    if len(images[0].flatten()) < 4000:
        mapped = lure(images)
        assert mapped.shape == images.shape
        np.testing.assert_allclose(
            tf.sigmoid(lure.until_sigmoid()(images)), mapped, atol=1e-6
        )


def test_a_margin_is_cut_off_on_the_sides_where_it_was_put() -> None:
    lure = LuringInput(width=1 / 64, dropout=0.0)
    lure.build((None, 9, 13, 1))
    whole = LuringInput("svhn", width=1 / 64, dropout=0.0)
    whole.build((None, 16, 16, 1))
    whole.set_weights(lure.get_weights())
    images = images_of((9, 13, 1))
    padded = np.pad(images, [(0, 0), (3, 4), (1, 2), (0, 0)], mode="symmetric")
    with tf.GradientTape() as tape:
        given = tf.constant(images)
        tape.watch(given)
        mapped = lure(given)
    expected = whole(padded)[:, 3:12, 1:14]
    np.testing.assert_allclose(mapped, expected, rtol=1e-5, atol=1e-6)
    slopes = np.abs(tape.gradient(mapped, given))
    assert np.isfinite(slopes).all()
    assert slopes.max() > 0


@pytest.mark.parametrize(
    ("preset", "shape", "fitting"),
    [
        ("mnist", (8, 8, 1), "svhn, cifar10"),
        ("mnist", (32, 28, 1), "cifar10"),
        ("svhn", (28, 28), "mnist, cifar10"),
        ("cifar10", (9, 9, 1), "none does"),
    ],
)
def test_a_preset_that_does_not_fit_names_those_that_do(
    preset: LurePreset, shape: tuple[int, ...], fitting: str
) -> None:
    size = f"{shape[0]} by {shape[1]} pixels"
    with pytest.raises(ValueError, match=f"`preset`.*{size}: {fitting}\\."):
        LuringInput(preset).build((None, *shape))
    with pytest.raises(ValueError, match="at least 8 by 8"):
        LuringInput().build((None, 1, 9, 1))


def convolutions(lure: LuringInput) -> list[layers.Conv2D]:
    network: Any = lure._network
    return [layer for layer in network.layers if isinstance(layer, layers.Conv2D)]


def test_width_scales_the_hidden_filters_and_leaves_one_at_least() -> None:
    sizes = []
    for width in (1e-3, 1.0, 2.0):
        lure = LuringInput("mnist", width=width)
        lure.build((None, *MNIST))
        sizes.append([layer.filters for layer in convolutions(lure)])
    assert sizes == [
        [1] * 7,
        [16, 8, 8, 8, 8, 16, 1],
        [32, 16, 16, 16, 16, 32, 1],
    ]


@pytest.mark.parametrize(
    ("preset", "rate"), [("mnist", 0.0), ("svhn", 0.15), ("cifar10", 0.3)]
)
def test_the_dropout_is_the_authors_unless_one_is_given(
    preset: LurePreset, rate: float
) -> None:
    assert LuringInput(preset).dropout == rate
    assert LuringInput(preset, dropout=0.5).dropout == 0.5


@pytest.mark.parametrize("preset", ["svhn", "cifar10"])
def test_few_filters_get_the_noise_of_many(preset: LurePreset) -> None:
    def variance(width: float) -> float:
        """That of the mean over filters, of which each is 0 or 1 / (1 - rate)."""
        rate = LuringInput(preset, width=width).dropout or 0.0
        return rate / (1 - rate) / width

    for width in (1 / 16, 1 / 2):
        assert variance(width) == pytest.approx(variance(1))
    # One that is not named yet has it too.
    found = LuringInput(width=1 / 2)
    found.build((None, *(COLOUR if preset == "svhn" else (10, 10, 3))))
    network: Any = found._network
    rates = [one.rate for one in network.layers if isinstance(one, layers.Dropout)]
    assert rates == [LuringInput(preset, width=1 / 2).dropout] * 2
    # More filters than the authors' have their rate.
    assert LuringInput(preset, width=2.0).dropout == LuringInput(preset).dropout


def test_a_network_of_the_user_is_used_and_cut_to_the_range_of_pixels() -> None:
    lure = LuringInput(network=layers.Rescaling(2.0, offset=-0.5))
    images = images_of((4, 4, 1))
    np.testing.assert_allclose(lure(images), np.clip(2 * images - 0.5, 0, 1), 1e-6)


@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-1.0, 1.0), (0.3, 0.7)])
def test_the_network_sees_shares_of_the_range_and_the_image_is_in_bounds(
    bounds: tuple[float, float],
) -> None:
    low, high = bounds
    images = images_of((8, 8, 1))
    own = low + (high - low) * images
    for network in (None, layers.Rescaling(2.0, offset=-0.5)):
        lure = LuringInput(width=1 / 64, network=network, bounds=bounds)
        unit = LuringInput(width=1 / 64, network=network)
        unit.build((None, 8, 8, 1))
        lure.build((None, 8, 8, 1))
        unit.set_weights(lure.get_weights())
        mapped = lure(own).numpy()
        assert low <= mapped.min() < mapped.max() <= high
        np.testing.assert_allclose((mapped - low) / (high - low), unit(images), 0, 1e-5)


def test_integers_are_taken_where_the_bounds_are_some() -> None:
    lure = LuringInput(width=1 / 64, bounds=(0, 255))
    pixels = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
    np.testing.assert_array_equal(lure(pixels), lure(pixels.astype(np.float32)))
    copy = LuringInput.from_config(lure.get_config())
    assert copy.bounds == (0.0, 255.0)


@pytest.mark.parametrize("brings", [False, True])
def test_it_survives_a_config_and_a_file(brings: bool, tmp_path: Path) -> None:
    network = None
    if brings:
        network = keras.Sequential(
            [keras.Input(MNIST), layers.Conv2D(1, 3, padding="same")]
        )
    lure = LuringInput(width=0.5, network=network, bounds=(0, 2), name="tested")
    copy = LuringInput.from_config(lure.get_config())
    assert copy.get_config() == lure.get_config()
    assert vars(copy).keys() == vars(lure).keys()

    inputs = keras.Input(MNIST)
    model = keras.Model(inputs, lure(inputs))
    model.save(tmp_path / "lure.keras")
    loaded = keras.saving.load_model(tmp_path / "lure.keras")
    images = images_of(MNIST)
    np.testing.assert_array_equal(loaded(images), model(images))


def test_what_returns_no_image_of_its_shape_is_refused() -> None:
    lure = LuringInput(network=layers.MaxPooling2D())
    with pytest.raises(ValueError, match=r"`network`.*\(8, 8, 1\).*\(4, 4, 1\)"):
        lure.build((None, 8, 8, 1))
    image = keras.Input((8, 8, 1))
    several = keras.Model(image, [image, layers.ReLU()(image)])
    with pytest.raises(ValueError, match=r"`network`.*several tensors"):
        LuringInput(network=several).build((None, 8, 8, 1))
    with pytest.raises(ValueError, match=r"`network`.*\(9, 9, 1\).*refuses"):
        LuringInput(network=several).build((None, 9, 9, 1))
    with pytest.raises(ValueError, match=r"Expected images.*`network` of your own"):
        LuringInput().build((None, 64))
    wrong: Any = "p.keras"
    with pytest.raises(TypeError, match="argument `network`"):
        LuringInput(network=wrong)


def test_another_size_than_it_was_built_for_is_refused_if_it_changes() -> None:
    image = keras.Input((None, None, 1))
    halved = layers.UpSampling2D()(layers.MaxPooling2D()(image))
    lure = LuringInput(network=keras.Model(image, halved))
    assert lure(np.zeros((1, 8, 8, 1), np.float32)).shape == (1, 8, 8, 1)
    for images in (np.zeros((1, 7, 7, 1), np.float32), keras.Input((7, 7, 1))):
        with pytest.raises(ValueError, match=r"`network`.*\(7, 7, 1\).*\(6, 6, 1\)"):
            lure(images)


def test_integer_images_are_refused() -> None:
    lure = LuringInput(network=layers.ReLU())
    with pytest.raises(TypeError, match=r"floating point pixels.*uint8"):
        lure(tf.cast(images_of((8, 8, 1)) * 255, "uint8"))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"preset": "imagenet"}, "preset"),
        ({"width": 0.0}, "width"),
        ({"width": True}, "width"),
        ({"dropout": 1.0}, "dropout"),
        ({"bounds": (1, 0)}, "bounds"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(
    settings: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        LuringInput(**settings)
