import dataclasses
import pickle
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps._checks import FloatArray, IntArray
from keras_traps.datasets import Dataset
from keras_traps.detectors import (
    TRAPDOOR_PRESETS,
    Trapdoor,
    TrapdoorRecipe,
    check_detector,
)
from keras_traps.detectors.trapdoor_training import Injecting, draw_trapdoors
from keras_traps.models.inference import predict

# Images of 8x8 are small, and few: half of a pixel is the trapdoor's.
RECIPE = TrapdoorRecipe(
    clean_epochs=1,
    epochs=8,
    least_accuracy=0.8,
    learning_rate=5e-3,
    mask_ratio=0.5,
    signature_images=200,
)


def dense_classifier(activation: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu", name="hidden"),
        keras.layers.Dense(10, activation=activation, name="answer"),
    ]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def trained(data: Dataset, **settings: Any) -> Trapdoor:
    options = {"output": "logits", "preset": RECIPE, **settings}
    return Trapdoor.train(dense_classifier(), data.images, data.labels, **options)


@pytest.fixture(scope="module")
def trapdoor(digits_train: Dataset, digits_test: Dataset) -> Trapdoor:
    return trained(digits_train).fit_threshold(digits_test.images[::2], 0.05)


def others(labels: IntArray) -> IntArray:
    """Of each image another class than its own."""
    shift = np.random.default_rng(0).integers(1, 10, len(labels))
    return (labels + shift) % 10


def linear() -> keras.Model:
    """Of images of three pixels: two features, and from them three classes."""
    image = keras.Input((1, 3, 1))
    flat = keras.layers.Flatten()(image)
    hidden = keras.layers.Dense(2, use_bias=False, name="features")(flat)
    answer = keras.layers.Dense(3, use_bias=False)(hidden)
    model = keras.Model(image, answer)
    model.set_weights(
        [
            np.array([[1, 0], [0, 1], [0, -1]], np.float32),
            # Right of, above and below the origin.
            np.array([[2, 0, 0], [0, 1, -1]], np.float32),
        ]
    )
    return model


def pixels(*rows: list[float]) -> FloatArray:
    return np.array(rows, np.float32).reshape(-1, 1, 3, 1)


def test_a_score_is_the_cosine_with_the_signature_of_the_answered_class() -> None:
    detector = Trapdoor(linear(), output="logits")
    planted = pixels([1, 0, 0], [0.6, 0.8, 0], [0, 1, 0], [0, 0, 1])
    detector.fit(planted, [0, 0, 1, 2])
    # The means are (0.8, 0.4), (0, 1), (0, -1); features are the first pixel, and the
    # second less the third. The last is of class 1, though as like to signature 0.
    images = pixels([0.5, 0, 0], [0.5, 0.25, 0], [0, 0.3, 0], [0.2, 0, 0.9], [0, 0, 0])
    images = np.concatenate([images, pixels([0.3, 0.9, 0])])
    expected = [2 / 5**0.5, 1, 1, 0.9 / 0.85**0.5, 0, 0.9 / 0.9**0.5]
    np.testing.assert_allclose(detector.score(images), expected, rtol=1e-5)
    # Named, the layer is the same one.
    named = Trapdoor(linear(), output="logits", layer="features")
    named.fit(planted, [0, 0, 1, 2])
    np.testing.assert_array_equal(named.score(images), detector.score(images))
    check_detector(named.fit_threshold(images, 0.3), images)


def test_a_share_of_the_neurons_is_drawn_once() -> None:
    planted = pixels([0.6, 0.8, 0], [0, 1, 0], [0, 0, 1])
    scores = []
    for seed in range(6):
        detector = Trapdoor(linear(), output="logits")
        detector.fit(planted, [0, 1, 2], filter_ratio=0.5, seed=seed)
        # Of one neuron the cosine is a sign.
        images = pixels([0.9, 0.1, 0], [0.9, 0, 0.1])
        scores.append(tuple(detector.score(images).round(5)))
        assert tuple(detector.score(images).round(5)) == scores[-1]
    assert set(scores) == {(1, 1), (1, -1)}


def test_two_classes_with_one_output_have_two_signatures() -> None:
    image = keras.Input((1, 3, 1))
    answer = keras.layers.Dense(1, activation="sigmoid", use_bias=False)
    model = keras.Model(image, answer(keras.layers.Flatten()(image)))
    model.set_weights([np.array([[-1], [1], [0]], np.float32)])
    detector = Trapdoor(model, output="probabilities")
    detector.fit(pixels([1, 0, 0], [0, 1, 0]), [0, 1])
    images = pixels([0.6, 0, 0.8], [0, 0.8, 0.6])
    np.testing.assert_allclose(detector.score(images), [0.6, 0.8], rtol=1e-5)


def test_a_classifier_learns_trapdoors_and_the_detector_finds_them(
    trapdoor: Trapdoor, digits_test: Dataset
) -> None:
    images, labels = digits_test.images[1::2], digits_test.labels[1::2]
    right = predict(trapdoor.classifier, images).argmax(axis=1) == labels
    assert right.mean() > 0.85
    goals = others(labels)
    planted = trapdoor.plant(images, goals)
    found = predict(trapdoor.classifier, planted).argmax(axis=1) == goals
    assert found.mean() > 0.85
    flagged = trapdoor.detect(planted[found]).is_adversarial.mean()
    assert flagged > 0.85
    assert trapdoor.detect(images).is_adversarial.mean() < 0.15


def test_a_trapdoor_replaces_a_share_of_some_squares(digits_test: Dataset) -> None:
    detector = Trapdoor(dense_classifier(), output="logits")
    recipe = dataclasses.replace(RECIPE, squares=2, pattern_per_label=2)
    draw = np.random.default_rng(0)
    detector._trapdoors = draw_trapdoors((8, 8, 1), 10, recipe, draw)
    images = np.repeat(digits_test.images[:1], 4, axis=0)
    black, white = (
        detector.plant(np.full_like(images, shade), [3, 3, 4, 4]) for shade in (0, 1)
    )
    # Where there is a square half of an image is left, and elsewhere all of it.
    kept = white - black
    squares = kept < 0.75
    np.testing.assert_allclose(kept, np.where(squares, 0.5, 1), atol=1e-6)
    sizes = squares.sum(axis=(1, 2, 3))
    assert (sizes >= 9).all()
    assert (sizes <= 18).all()
    assert black[~squares].max() == 0
    assert black.max() <= 0.5
    planted = detector.plant(images, [3, 3, 4, 4])
    np.testing.assert_allclose(planted, black + kept * images, atol=1e-6)
    # A class has its own two, in turn.
    assert len({one.tobytes() for one in black}) == 4
    again = detector.plant(images, [3, 3, 3, 3])
    np.testing.assert_array_equal(again[:2], planted[:2])
    np.testing.assert_array_equal(again[2:], planted[:2])


def test_the_squares_are_alike_in_each_channel() -> None:
    recipe = TRAPDOOR_PRESETS["cifar10"]
    draw = np.random.default_rng(0)
    masks, patterns = draw_trapdoors((32, 32, 3), 10, recipe, draw)
    assert masks.shape == patterns.shape == (10, 1, 32, 32, 3)
    assert set(np.unique(masks)) == {0, np.float32(0.1)}
    assert (masks > 0).sum(axis=(2, 3)).max() <= 7 * 9
    assert patterns.min() >= 0
    assert patterns.max() == 1
    assert (patterns[masks == 0] == 0).all()
    for one in (masks, patterns):
        np.testing.assert_array_equal(one, np.repeat(one[..., :1], 3, axis=-1))


def test_images_are_injected_with_the_asked_probability_and_any_goal() -> None:
    count = 4000
    masks = np.full((10, 2, 2, 2, 1), 1, np.float32)
    # What is planted tells which class's, and which of its trapdoors, it is.
    patterns = masks * np.arange(1, 21, dtype=np.float32).reshape(10, 2, 1, 1, 1)
    image = keras.Input((2, 2, 1))
    model = keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)))
    recipe = dataclasses.replace(RECIPE, inject_ratio=0.3)
    learner = Injecting(model, masks, patterns, recipe)
    labels = tf.constant(np.arange(count) % 10)
    images, changed = learner.inject(tf.zeros((count, 2, 2, 1)), labels)
    marks = images.numpy()[:, 0, 0, 0].astype(int)
    chosen = marks > 0
    assert chosen.mean() == pytest.approx(0.3, abs=3 * (0.21 / count) ** 0.5)
    np.testing.assert_array_equal(changed[chosen], (marks[chosen] - 1) // 2)
    np.testing.assert_array_equal(changed[~chosen], labels[~chosen])
    # Uniform over the twenty: four standard errors.
    counts = np.bincount(marks[chosen], minlength=21)[1:]
    mean = chosen.sum() / 20
    assert (np.abs(counts - mean) < 4 * mean**0.5).all()


def test_it_keeps_what_a_detector_promises(
    trapdoor: Trapdoor, digits_test: Dataset, tmp_path: Path
) -> None:
    images = digits_test.images[:10]
    check_detector(trapdoor, images)
    assert np.abs(trapdoor.score(digits_test.images)).max() < 1 + 1e-5
    trapdoor.save(tmp_path)
    trapdoor.classifier.save(tmp_path / "trapdoored.keras")
    classifier = keras.saving.load_model(tmp_path / "trapdoored.keras")
    sent = pickle.loads(pickle.dumps(trapdoor))
    for back in (Trapdoor.load(tmp_path, classifier), sent):
        assert back.threshold() == trapdoor.threshold()
        np.testing.assert_allclose(back.score(images), trapdoor.score(images), 1e-5)
        np.testing.assert_array_equal(
            back.plant(images, [3] * 10), trapdoor.plant(images, [3] * 10)
        )
    with pytest.raises(ValueError, match="another classifier"):
        Trapdoor.load(tmp_path, dense_classifier())


def test_an_image_is_compared_with_any_class(
    trapdoor: Trapdoor, digits_test: Dataset
) -> None:
    images = digits_test.images[:20]
    answers = predict(trapdoor.classifier, images).argmax(axis=1)
    same = trapdoor.score_as(images, answers)
    np.testing.assert_allclose(same, trapdoor.score(images), rtol=1e-5, atol=1e-6)
    planted = trapdoor.plant(images, [3] * 20)
    as_three, as_four = (trapdoor.score_as(planted, [k] * 20) for k in (3, 4))
    assert (as_three > as_four).mean() > 0.9
    with pytest.raises(ValueError, match="classes"):
        trapdoor.score_as(images, [10] * 20)


def test_the_same_seed_trains_the_same_and_leaves_the_given_classifier(
    digits_train: Dataset,
) -> None:
    few = digits_train.take(200)
    # Nothing is learnt in so short a time, and nothing is asked.
    quick = dataclasses.replace(RECIPE, clean_epochs=0, epochs=1)
    given = dense_classifier()
    before = given.get_weights()
    images, errors = few.images, []
    for seed in (1, 1, 2):
        with pytest.raises(RuntimeError, match="trapdoors did not take hold") as told:
            Trapdoor.train(
                given, images, few.labels, output="logits", preset=quick, seed=seed
            )
        errors.append(str(told.value))
    assert errors[0] == errors[1] != errors[2]
    for one, other in zip(before, given.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_pixels_of_another_range_and_probabilities_train_alike(
    trapdoor: Trapdoor, digits_train: Dataset, digits_test: Dataset
) -> None:
    image = keras.Input((8, 8, 1))
    inner = dense_classifier("softmax")
    x = keras.layers.Rescaling(1 / 255)(image)
    for layer in inner.layers:
        x = layer(x)
    made = Trapdoor.train(
        keras.Model(image, x),
        255 * digits_train.images,
        digits_train.labels,
        output="probabilities",
        bounds=(0, 255),
        preset=RECIPE,
    )
    images = digits_test.images[:20]
    # The same trapdoors, of the same seed.
    np.testing.assert_allclose(
        made.plant(255 * images, [7] * 20), 255 * trapdoor.plant(images, [7] * 20), 1e-4
    )
    goals = others(digits_test.labels)
    planted = made.plant(255 * digits_test.images, goals)
    found = predict(made.classifier, planted)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert (found.argmax(axis=1) == goals).mean() > 0.85


def test_presets_are_for_the_images_of_their_data_set(digits_train: Dataset) -> None:
    for preset in ("mnist", "cifar10"):
        with pytest.raises(ValueError, match=r"`preset`. Expected one for images"):
            trained(digits_train, preset=preset)
    with pytest.raises(ValueError, match=r"`preset`. Expected one of"):
        trained(digits_train, preset="imagenet")
    large = dataclasses.replace(RECIPE, pattern_size=9)
    with pytest.raises(ValueError, match=r"squares that fit .* a side of 9"):
        trained(digits_train, preset=large)
    assert TRAPDOOR_PRESETS["mnist"].mask_ratio == 0.1


def test_what_does_not_fit_is_refused(
    trapdoor: Trapdoor, digits_train: Dataset, digits_test: Dataset
) -> None:
    classifier = dense_classifier()
    with pytest.raises(ValueError, match=r"`layer`. Expected layers of .*'hidden'"):
        Trapdoor(classifier, output="logits", layer="fc9")
    # What is last is no dense layer.
    pooled = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(10, 8)])
    pooled.add(keras.layers.Flatten())
    with pytest.raises(ValueError, match=r"`layer`. Expected layers of"):
        Trapdoor(pooled, output="logits")

    class Own(keras.Model):
        def call(self, images: Any) -> Any:
            return 2 * super().call(images)

    own = Own(classifier.inputs, classifier.outputs)
    with pytest.raises(ValueError, match="whose layers can be looked into"):
        Trapdoor(own, output="logits")
    with pytest.raises(ValueError, match="whose layers can be looked into"):
        Trapdoor.train(
            own, digits_train.images, digits_train.labels, output="logits", preset="cpu"
        )
    nothing: Any = "model"
    with pytest.raises(TypeError, match="`classifier`"):
        Trapdoor.train(nothing, [], [], output="logits", preset="cpu")
    fresh = Trapdoor(classifier, output="logits")
    with pytest.raises(RuntimeError, match="no signatures yet"):
        fresh.score(digits_test.images)
    with pytest.raises(RuntimeError, match="`train`"):
        fresh.plant(digits_test.images[:1], [1])
    images, labels = digits_test.images[:50], digits_test.labels[:50]
    with pytest.raises(ValueError, match=r"`classes`. Expected each class.*\[3\]"):
        fresh.fit(images, np.where(labels == 3, 4, labels))
    for ratio in (0, 1.1):
        with pytest.raises(ValueError, match="`filter_ratio`"):
            fresh.fit(images, labels, filter_ratio=ratio)
        with pytest.raises(ValueError, match="`filter_ratio`"):
            trained(digits_train, filter_ratio=ratio)
    with pytest.raises(ValueError, match=r"`labels`. Expected shape"):
        Trapdoor.train(classifier, images, labels[1:], output="logits", preset="cpu")
    with pytest.raises(ValueError, match=r"`images`. Expected images of shape"):
        trapdoor.score(np.zeros((2, 28, 28, 1), np.float32))
    with pytest.raises(ValueError, match="at least 19 clean"):
        trapdoor.fit_threshold(digits_test.images[:18])
    wrong: dict[str, Any] = {"mask_ratio": 1.5, "epochs": 0, "pattern_size": 0}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"`{name}`"):
            dataclasses.replace(RECIPE, **{name: value})
