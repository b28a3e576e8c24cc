import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.datasets import Dataset
from keras_traps.detectors import TabooTrap, TabooTrapRecipe, check_detector
from keras_traps.detectors.taboo_trap import taboo_penalty
from keras_traps.models.inference import predict

RECIPE = TabooTrapRecipe(epochs=3, learning_rate=1e-2)


def trained(classifier: keras.Model, data: Dataset, **settings: Any) -> TabooTrap:
    options = {"output": "logits", "preset": RECIPE, **settings}
    return TabooTrap.train(classifier, data.images, data.labels, **options)


@pytest.fixture(scope="module")
def taboo(
    digits_classifier: keras.Model, digits_train: Dataset, digits_test: Dataset
) -> TabooTrap:
    made = trained(digits_classifier, digits_train)
    return made.fit_threshold(digits_test.images, 0.05)


def plain() -> keras.Model:
    """Of images of two pixels: one layer that takes them, one that takes them tenfold.

    The answer is of two classes, and is the pixels too.
    """
    image = keras.Input((1, 2, 1))
    flat = keras.layers.Flatten()(image)
    layers = [
        keras.layers.Dense(2, "relu", use_bias=False, name="once"),
        keras.layers.Dense(2, use_bias=False, name="between"),
        keras.layers.ReLU(name="tenfold"),
        keras.layers.Dense(2, use_bias=False, name="answer"),
    ]
    for layer in layers:
        flat = layer(flat)
    model = keras.Model(image, flat)
    one = np.eye(2, dtype=np.float32)
    model.set_weights([one, 10 * one, one / 10])
    return model


def pixels(*rows: tuple[float, float]) -> FloatArray:
    return np.array(rows, np.float32).reshape(-1, 1, 2, 1)


def test_a_limit_is_a_percentile_of_the_largest_activations() -> None:
    # The largest are 0.1 to 0.5, and ten times that.
    images = pixels((0.1, 0), (0.1, 0.2), (0.3, 0), (0, 0.4), (0.5, 0.5))
    detector = TabooTrap(plain(), output="logits").fit(images, percentile=75)
    assert detector.layers == ("once", "tenfold")
    # In spreads both layers are 0.6 - 0.4 above their limits.
    spread = np.std([0.1, 0.2, 0.3, 0.4, 0.5])
    found = detector.score(pixels((0.6, 0.1), (0.4, 0.4), (0, 0.1)))
    np.testing.assert_allclose(found, np.array([0.2, 0, -0.3]) / spread, atol=1e-5)
    highest = TabooTrap(plain(), output="logits").fit(images)
    np.testing.assert_allclose(highest.score(images).max(), 0, atol=1e-6)
    one = TabooTrap(plain(), output="logits", layers=["tenfold"]).fit(images)
    np.testing.assert_allclose(one.score(images), highest.score(images), atol=1e-5)


def test_of_the_layers_the_one_that_is_furthest_above_counts() -> None:
    model = plain()
    once, ten, answer = model.get_weights()
    # The second layer sees the second pixel alone.
    model.set_weights([once, ten * np.array([[0], [1]], np.float32), answer])
    images = pixels((0.1, 0.1), (0.3, 0.3))
    detector = TabooTrap(model, output="logits").fit(images)
    # Limits 0.3 and 3, spreads 0.1 and 1.
    found = detector.score(pixels((0.6, 0), (0.6, 0.7), (0.2, 0.1)))
    np.testing.assert_allclose(found, [3, 4, -1], atol=1e-5)


def test_a_layer_that_is_always_0_has_a_finite_score() -> None:
    detector = TabooTrap(plain(), output="logits").fit(pixels((0, 0), (0, 0)))
    np.testing.assert_allclose(detector.score(pixels((0.25, 0))), [2.5], rtol=1e-6)


def test_the_penalty_is_0_up_to_the_limit_and_its_slope_1_above() -> None:
    limits = np.array([1.0, 2.0], np.float32)
    first = tf.constant([[0.5, 1.0], [1.25, 3.0]])
    second = tf.constant([[[[2.0]]], [[[2.5]]]])
    with tf.GradientTape() as tape:
        tape.watch([first, second])
        penalty = taboo_penalty([first, second], limits)
    np.testing.assert_allclose(penalty, [0, 0.25 + 2 + 0.5])
    slopes = tape.gradient(penalty, [first, second])
    np.testing.assert_array_equal(slopes[0], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(slopes[1].numpy().ravel(), [0, 1])


def test_the_first_step_of_tuning_is_that_of_both_losses() -> None:
    images, labels = pixels((0.2, 0.4), (0.6, 0.1)), np.array([0, 1])
    recipe = TabooTrapRecipe(
        percentile=0, weight=3.0, epochs=1, learning_rate=0.1, momentum=0.0
    )
    model = plain()
    made = TabooTrap.train(model, images, labels, output="logits", preset=recipe)
    before = model.get_weights()
    # Of the least of the largest: 0.4 and 4.
    with tf.GradientTape() as tape:
        once = tf.nn.relu(tf.reshape(images, (2, 2)) @ model.trainable_weights[0].value)
        ten = tf.nn.relu(once @ model.trainable_weights[1].value)
        logits = ten @ model.trainable_weights[2].value
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        above = tf.reduce_sum(tf.nn.relu(once - 0.4)) + tf.reduce_sum(
            tf.nn.relu(ten - 4)
        )
        loss = tf.reduce_mean(entropy) + 3 * above / 2
    slopes = tape.gradient(loss, [one.value for one in model.trainable_weights])
    for start, slope, end in zip(
        before, slopes, made.classifier.get_weights(), strict=True
    ):
        np.testing.assert_allclose(end, start - 0.1 * slope, rtol=1e-4, atol=1e-5)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_tuning_keeps_clean_images_below_the_limits_and_answers_right(
    taboo: TabooTrap,
    digits_classifier: keras.Model,
    digits_train: Dataset,
    digits_test: Dataset,
) -> None:
    images, labels = digits_test.images, digits_test.labels
    assert taboo.layers == ("conv1", "conv2", "conv3")
    right = predict(taboo.classifier, images).argmax(axis=1) == labels
    assert right.mean() > 0.9
    untuned = TabooTrap(digits_classifier, output="logits")
    untuned.fit(digits_train.images, percentile=1)
    # 99 of 100 are above some limit at first.
    assert (untuned.score(digits_train.images) > 0).mean() >= 0.99
    assert (taboo.score(images) > 0).mean() < 0.5


def test_images_that_are_moved_up_the_score_are_flagged(
    taboo: TabooTrap, digits_test: Dataset
) -> None:
    images = tf.constant(digits_test.images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        score = taboo.tf_score(images)
    moved = images + 0.3 * tf.sign(tape.gradient(score, images))
    found = taboo.detect(tf.clip_by_value(moved, 0, 1).numpy())
    assert found.is_adversarial.mean() > 0.9


def test_it_keeps_what_a_detector_promises(
    taboo: TabooTrap,
    digits_classifier: keras.Model,
    digits_test: Dataset,
    tmp_path: Path,
) -> None:
    images = digits_test.images[:10]
    check_detector(taboo, images)
    taboo.save(tmp_path)
    taboo.classifier.save(tmp_path / "tuned.keras")
    classifier = keras.saving.load_model(tmp_path / "tuned.keras")
    back = TabooTrap.load(tmp_path, classifier)
    assert (back.threshold(), back.layers) == (taboo.threshold(), taboo.layers)
    np.testing.assert_allclose(back.score(images), taboo.score(images), rtol=1e-5)
    with pytest.raises(ValueError, match="another classifier"):
        TabooTrap.load(tmp_path, digits_classifier)


def test_the_same_seed_tunes_the_same(
    digits_classifier: keras.Model, digits_train: Dataset
) -> None:
    few = digits_train.take(100)
    found = [
        trained(digits_classifier, few, preset="cpu", seed=seed).score(few.images)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_pixels_of_another_range_and_probabilities_are_tuned_alike(
    digits_classifier: keras.Model, digits_train: Dataset
) -> None:
    few = digits_train.take(100)
    image = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(image)
    # Dropout draws by a seed of each layer, so there is none.
    dropout = keras.layers.Dropout
    kept = [one for one in digits_classifier.layers[1:] if not isinstance(one, dropout)]
    y = small = keras.Input((8, 8, 1))
    for layer in kept:
        x, y = layer(x), layer(y)
    logits = trained(keras.Model(small, y), few, preset="cpu")
    other = TabooTrap.train(
        keras.Model(image, keras.layers.Softmax()(x)),
        255 * few.images,
        few.labels,
        output="probabilities",
        bounds=(0, 255),
        preset="cpu",
    )
    assert other.layers == logits.layers
    np.testing.assert_allclose(
        other.score(255 * few.images), logits.score(few.images), atol=2e-3
    )


def test_presets_are_for_the_images_of_their_data_set(
    digits_classifier: keras.Model, digits_train: Dataset
) -> None:
    for preset in ("mnist", "cifar10"):
        with pytest.raises(ValueError, match=r"`preset`. Expected one for images"):
            trained(digits_classifier, digits_train, preset=preset)
    with pytest.raises(ValueError, match=r"`preset`. Expected one of"):
        trained(digits_classifier, digits_train, preset="imagenet")


def test_what_does_not_fit_is_refused(
    taboo: TabooTrap, digits_classifier: keras.Model, digits_test: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"`layers`. Expected layers of .*'conv1'"):
        TabooTrap(digits_classifier, output="logits", layers=["conv1", "relu9"])
    flat = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    flat.add(keras.layers.Dense(10))
    with pytest.raises(ValueError, match=r"`layers`. .*none with an activation"):
        TabooTrap(flat, output="logits")
    fresh = TabooTrap(digits_classifier, output="logits")
    with pytest.raises(RuntimeError, match="no limits yet"):
        fresh.score(digits_test.images)
    with pytest.raises(ValueError, match=r"`percentile`.*at most 100"):
        fresh.fit(digits_test.images, percentile=101)
    with pytest.raises(ValueError, match=r"`labels`. Expected shape"):
        TabooTrap.train(
            digits_classifier,
            digits_test.images,
            digits_test.labels[1:],
            output="logits",
            preset="cpu",
        )
    with pytest.raises(ValueError, match=r"`images`. Expected images of shape"):
        taboo.score(np.zeros((2, 28, 28, 1), np.float32))
    with pytest.raises(ValueError, match="at least 19 clean"):
        taboo.fit_threshold(digits_test.images[:18])
    wrong: dict[str, Any] = {"weight": 0, "epochs": 0, "momentum": 1.0}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"`{name}`"):
            dataclasses.replace(RECIPE, **{name: value})
