import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks import Batch
from keras_traps.attacks.diversity import show_variants
from keras_traps.attacks.gradient import Recipe, Settings, run_gradient_loop
from keras_traps.attacks.translation import smooth
from tests.attacks.calling import compiled_parts
from tests.attacks.victims import (
    SHAPE,
    TWO_CLASSES,
    Root,
    linear,
    some_images,
    tanh_net,
)

PLAIN = Settings(eps=0.3, eps_iter=0.05, nb_iter=4, targeted=False)
RECIPES = {
    "plain": Recipe(),
    "momentum": Recipe(momentum=True),
    "early": Recipe(abort_early=True),
    "smooth": Recipe(momentum=True, smooth=smooth),
}


def batch(model: keras.Model, images: Any, labels: Any) -> Batch:
    labels, ids = np.asarray(labels, np.int64), np.arange(10, 10 + len(images))
    return Batch(
        model=model,
        loss="margin",
        images=images,
        labels=labels,
        ids=ids,
        seed=0,
        background=images,
    )


def test_it_starts_where_it_is_told_to() -> None:
    images = some_images(4)
    here = batch(tanh_net().model, images, [0, 1, 2, 0])
    start = images + np.float32(0.25)

    made = run_gradient_loop(
        here, Recipe(), PLAIN._replace(nb_iter=1, eps_iter=0.01), start=start
    )

    np.testing.assert_allclose(np.abs(made.images - start), 0.01, atol=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_model_is_traced_once_for_all_batches_and_settings(recipe: str) -> None:
    model, images, labels = linear(TWO_CLASSES), some_images(7), [0, 1, 0, 1, 0, 1, 0]
    for count, settings in (
        (1, PLAIN),
        (3, PLAIN._replace(eps=0.2, nb_iter=np.int64(2))),
        (7, PLAIN._replace(targeted=True, decay_factor=0.5, kernel=[0.5, 0.5])),
    ):
        part = batch(model, images[:count], labels[:count])
        run_gradient_loop(part, RECIPES[recipe], settings)

    (loop,) = compiled_parts(model).values()
    assert loop.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_example_whose_gradient_is_not_finite_is_named(recipe: str) -> None:
    image = keras.Input(SHAPE)
    roots = keras.layers.Flatten()(Root()(image))
    model = keras.Model(image, keras.layers.Dense(2)(roots))
    images = some_images(5)
    images[3, 0, 0, 0] = 0
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not finite.*\[13\]"):
        run_gradient_loop(batch(model, images, [0] * 5), RECIPES[recipe], PLAIN)


def test_an_example_is_named_by_its_own_id_after_others_have_left() -> None:
    # The slope of the first class, which ends at 0.6, leads all pixels up to it.
    image = keras.Input(SHAPE)
    roots = keras.layers.Flatten()(Root()(keras.ops.relu(0.6 - image)))
    dense = keras.layers.Dense(2)
    model = keras.Model(image, dense(roots))
    dense.set_weights([np.tile([1.0, -1.0], (6, 1)), np.array([0.0, 5.0])])
    images = np.full((5, *SHAPE), 0.1, np.float32)
    images[[0, 2]] = 0.55  # the second class
    images[3, 0, 0, 0] = 0.58
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not finite.*\[13\]"):
        run_gradient_loop(batch(model, images, [0] * 5), RECIPES["early"], PLAIN)


def test_a_constant_model_is_left_where_it_is() -> None:
    image = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(image)
    model = keras.Model(image, keras.layers.Dense(2)(flat * 0.0))
    images = some_images(3)
    for recipe in RECIPES.values():
        made = run_gradient_loop(batch(model, images, [0, 1, 0]), recipe, PLAIN)
        np.testing.assert_array_equal(made.images, images)


def test_recipes_are_told_apart_by_what_they_hold() -> None:
    assert Recipe(momentum=True) == Recipe(momentum=True)
    assert len({Recipe(), Recipe(momentum=True), Recipe(smooth=smooth)}) == 3


def test_an_early_end_is_not_judged_by_what_the_model_was_shown_instead() -> None:
    with pytest.raises(ValueError, match=r"`abort_early`. Expected `False` beside"):
        dataclasses.replace(Recipe(look=show_variants), abort_early=True)
