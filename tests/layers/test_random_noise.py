from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.layers import RandomNoise

GREY = np.full((400, 8, 8, 1), 0.5, np.float32)


def test_it_is_made_again_from_its_config_and_from_a_file(tmp_path: Path) -> None:
    layer = RandomNoise(0.2, seed=3, name="noise")
    config = layer.get_config()
    assert RandomNoise.from_config(config).get_config() == config
    keras.Sequential([keras.Input((8, 8, 1)), layer]).save(tmp_path / "noise.keras")
    (read,) = keras.saving.load_model(tmp_path / "noise.keras").layers
    assert read.get_config() == config
    np.testing.assert_array_equal(
        read(GREY, training=True), RandomNoise(0.2, seed=3)(GREY, training=True)
    )


def test_a_symbol_has_the_shape_of_the_images() -> None:
    assert RandomNoise(0.2)(keras.Input((8, 8, 3))).shape == (None, 8, 8, 3)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_is_compiled_for_any_batch(jit_compile: bool) -> None:
    layer = RandomNoise(0.2, seed=0)
    noisy = tf.function(
        lambda images: layer(images, training=True),
        input_signature=[tf.TensorSpec((None, 8, 8, 1))],
        jit_compile=jit_compile,
    )
    for count in (0, 1, 7):
        assert noisy(GREY[:count]).shape == (count, 8, 8, 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_kept(dtype: str) -> None:
    noisy = RandomNoise(0.2, seed=0, dtype=f"mixed_{dtype}")(GREY, training=True)
    assert noisy.dtype == dtype
    noisy = tf.cast(noisy, tf.float32)
    assert np.asarray(noisy).std() > 0.05


def test_outside_training_nothing_changes() -> None:
    np.testing.assert_array_equal(RandomNoise(0.2)(GREY, training=False), GREY)


def test_each_image_draws_its_own_strength_up_to_the_largest() -> None:
    noisy = np.asarray(RandomNoise(0.1, seed=0)(GREY, training=True))
    strengths = (noisy - GREY).std(axis=(1, 2, 3))
    # Of 64 values each estimate is off by a tenth or so; the mean of all by far less.
    assert strengths.max() < 0.1 * 1.35
    assert strengths.mean() == pytest.approx(0.05, rel=0.1)
    quarters, _ = np.histogram(strengths, bins=[0, 0.025, 0.05, 0.075, 0.2])
    assert (quarters > 60).all()


def test_pixels_stay_between_0_and_1() -> None:
    black = np.zeros((20, 8, 8, 1), np.float32)
    noisy = np.asarray(RandomNoise(1.0, seed=0)(black, training=True))
    assert noisy.min() == 0.0
    assert 0.5 < noisy.max() <= 1.0


def test_the_same_seed_gives_the_same_noise_and_every_call_another() -> None:
    first, again, other = (RandomNoise(0.2, seed=seed) for seed in (5, 5, 6))
    noisy = np.asarray(first(GREY, training=True))
    np.testing.assert_array_equal(again(GREY, training=True), noisy)
    assert not np.array_equal(other(GREY, training=True), noisy)
    assert not np.array_equal(first(GREY, training=True), noisy)


@pytest.mark.parametrize("stddev", [0.0, -0.1, float("nan"), "0.1", True])
def test_a_strength_that_is_not_above_0_is_refused(stddev: Any) -> None:
    with pytest.raises(ValueError, match="argument `stddev`"):
        RandomNoise(stddev)


def test_whole_numbers_are_no_images() -> None:
    with pytest.raises(TypeError, match="floating"):
        RandomNoise(0.1)(tf.zeros((1, 8, 8, 1), tf.uint8), training=True)


def test_a_seed_that_is_a_word_is_refused() -> None:
    seed: Any = "three"
    with pytest.raises(ValueError, match="seed"):
        RandomNoise(0.1, seed=seed)
