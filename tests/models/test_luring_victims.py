from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.models import cifar10_vgg, madry_mnist_cnn, svhn_vgg
from keras_traps.models.luring_victims import VICTIM_RECIPES

Build = Callable[..., keras.Model]


@pytest.mark.parametrize(
    ("build", "parameters"),
    [(madry_mnist_cnn, 3_274_538), (svhn_vgg, 4_574_400), (cifar10_vgg, 10_367_360)],
)
def test_the_architecture_has_the_authors_size(build: Build, parameters: int) -> None:
    assert build().count_params() == parameters


@pytest.mark.parametrize("build", [madry_mnist_cnn, svhn_vgg, cifar10_vgg])
def test_it_returns_ten_logits_with_a_gradient(build: Build) -> None:
    model = build(width=1 / 32)
    shape = (2, *model.input_shape[1:])
    images = tf.constant(np.random.default_rng(0).random(shape, np.float32))
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = model(images, training=False)
    assert logits.shape == (2, 10)
    assert np.abs(tape.gradient(logits, images)).max() > 0
    # Neither a softmax nor a bound.
    assert np.min(logits) < 0


def test_a_width_scales_every_hidden_layer_and_not_the_classes() -> None:
    narrow = madry_mnist_cnn(width=0.25)
    assert narrow.get_layer("conv2").filters == 16
    assert narrow.get_layer("dense").units == 256
    assert narrow.output_shape == (None, 10)


@pytest.mark.parametrize("build", [madry_mnist_cnn, svhn_vgg, cifar10_vgg])
def test_a_width_of_nothing_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match="argument `width`"):
        build(width=0.0)


def test_a_recipe_has_one_rate_more_than_boundaries() -> None:
    for recipe in VICTIM_RECIPES.values():
        assert len(recipe.learning_rates) == len(recipe.boundaries) + 1
        assert list(recipe.boundaries) == sorted(recipe.boundaries)
