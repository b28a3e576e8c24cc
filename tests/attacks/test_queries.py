"""Facts that hold for every attack that only asks."""

import functools
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attacks import AttackResult, create, names
from keras_traps.attacks.queries import Example, QueryAttack, Search, SearchAttack
from tests.attacks.calling import EVERY, Weighted
from tests.attacks.test_model_checks import Rounded
from tests.attacks.victims import (
    SHAPE,
    TOWARDS_1,
    TWO_CLASSES,
    Root,
    linear,
    some_images,
    two_classes,
)

ASKING = [
    name for name in EVERY if isinstance(create(name, **EVERY[name]), QueryAttack)
]
LABELS_ONLY = [name for name in ASKING if name in ("RayS", "HopSkipJump")]


def test_none_is_left_out() -> None:
    assert ASKING == ["NES", "SPSA-Q", "Square", "RayS", "HopSkipJump"]
    assert set(ASKING) < set(names())


class Counts(keras.layers.Layer):
    """Notes how many images it is shown in each call, and which."""

    shown: ClassVar[list[npt.NDArray[np.float32]]] = []

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        def note(images: tf.Tensor) -> tf.Tensor:
            self.shown.append(images.numpy())
            return images

        noted = tf.py_function(note, [inputs], tf.float32)
        return tf.ensure_shape(noted, inputs.shape)


@functools.cache
def counting() -> keras.Model:
    """The linear model of two classes; what it is asked is in `Counts.shown`."""
    image = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(Counts()(image))
    model = keras.Model(image, keras.layers.Dense(2, use_bias=False)(flat))
    model.set_weights([TWO_CLASSES])
    return model


def ask(name: str, images: Any, labels: Any, **settings: Any) -> AttackResult:
    """Attacks the counting model; before and after, models of scores are not asked."""
    Counts.shown.clear()
    made = create(name, **{**EVERY[name], **settings})
    # Nothing comes of the first trace.
    Counts.shown.clear()
    return made(counting(), images, labels, output="scores")


@pytest.mark.parametrize("name", ASKING)
def test_it_asks_about_no_pixel_out_of_range(name: str) -> None:
    images = np.round(some_images(6))
    ask(name, images, [0] * 6)
    shown = np.concatenate(Counts.shown)
    assert (shown.min(), shown.max()) == (0.0, 1.0)


@pytest.mark.parametrize("nb_queries", [1, 2, 7, 90])
@pytest.mark.parametrize("name", ASKING)
def test_its_iterations_are_the_images_that_the_model_was_asked_about(
    name: str, nb_queries: int
) -> None:
    images = some_images(9)
    labels = [0, 0, 0, 1, 0, 0, 0, 0, 0]
    result = ask(name, images, labels, nb_queries=nb_queries)
    # The answers to the results are asked for at the end.
    asked = sum(map(len, Counts.shown)) - len(images)
    assert asked == result.iterations.sum()
    assert result.iterations.max() <= nb_queries
    assert result.iterations.min() == 1


@pytest.mark.parametrize("name", ["Square", "RayS"])
def test_all_examples_are_asked_about_at_once(name: str) -> None:
    result = ask(name, some_images(9), [0] * 9, nb_queries=60)
    *turns, _ = map(len, Counts.shown)
    left = [(result.iterations > turn).sum() for turn in range(len(turns))]
    assert turns == left
    assert len(turns) == result.iterations.max()
    assert len(set(result.iterations)) > 2


@pytest.mark.parametrize("name", ASKING)
def test_what_is_answered_wrong_already_comes_back_as_it_is(name: str) -> None:
    images = some_images(4)
    result = ask(name, images, [1] * 4)
    np.testing.assert_array_equal(result.images, images)
    assert result.success.all()
    assert (result.iterations == 1).all()


class Hardest(keras.layers.Layer):
    """Tells the answer, and nothing else."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.one_hot(tf.argmax(inputs, axis=-1), inputs.shape[-1])


def hardened(model: keras.Model) -> keras.Model:
    image = keras.Input(SHAPE)
    return keras.Model(image, Hardest()(model(image)))


@pytest.mark.parametrize("name", ASKING)
def test_attacks_by_labels_alone_see_the_answers_and_nothing_else(name: str) -> None:
    model, images = linear(TWO_CLASSES), some_images(8)
    attack = create(name, **{**EVERY[name], "nb_queries": 60})
    soft, hard = (
        attack(one, images, [0] * 8, output="scores")
        for one in (model, hardened(model))
    )
    alike = bool((soft.images == hard.images).all())
    assert alike == (name in LABELS_ONLY)


@pytest.mark.parametrize("name", ASKING)
def test_a_model_without_a_gradient_is_attacked(name: str) -> None:
    image = keras.Input(SHAPE)
    rounded = Rounded()(keras.layers.Rescaling(50.0)(image))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(rounded)))
    model.layers[-1].set_weights([TWO_CLASSES, np.zeros(2)])
    settings = {**EVERY[name], "nb_queries": 500}
    if name != "HopSkipJump":
        settings["eps"] = 0.4
    if name == "NES":
        settings |= {"sigma": 0.05, "eps_iter": 0.1}
    result = create(name, **settings)(model, some_images(20), [0] * 20)
    assert result.success.all()


@pytest.mark.parametrize("name", ASKING)
def test_the_example_whose_outputs_are_not_finite_is_named(name: str) -> None:
    image = keras.Input(SHAPE)
    # No number where a pixel is below 0.2.
    roots = keras.layers.Flatten()(Root()(image - 0.2))
    model = keras.Model(image, keras.layers.Dense(2, use_bias=False)(roots))
    model.set_weights([TWO_CLASSES])
    shown = np.full((3, *SHAPE), 0.9, np.float32)
    shown[1] = 0.21
    labels = model(shown).numpy().argmax(axis=1)
    # Those that are not to be named are wrong from the start.
    labels[[0, 2]] ^= 1
    told = rf"{name} asked about .* not finite, at the examples \[7\]"
    with pytest.raises(RuntimeError, match=told):
        create(name, **EVERY[name])(model, shown, labels, ids=[5, 7, 9])


class Probe(SearchAttack):
    """Shows images further and further towards the second class, and notes all."""

    name: ClassVar[str] = "Probe"
    noted: ClassVar[list[tuple[Any, Any, float]]] = []

    def search(self, example: Example) -> Search:
        for share in (0.0, 0.1, 0.2, 0.4):
            moved = np.clip(example.clean + share * TOWARDS_1[0], 0, 1)
            (told,) = yield moved[None]
            self.noted.append((example.clean, moved, told))


class ProbeLabels(Probe):
    name: ClassVar[str] = "ProbeLabels"
    labels_only: ClassVar[bool] = True


def lead(image: Any) -> float:
    return float(image.ravel() @ (TWO_CLASSES[:, 1] - TWO_CLASSES[:, 0]))


class Still(Weighted):
    """Scores of 0 for all images, which is the threshold."""

    def score(self, images: Any) -> FloatArray:
        return np.zeros(len(images), np.float32)


def test_a_score_at_the_threshold_is_not_flagged_and_does_not_hide_a_success() -> None:
    watching = Still(np.zeros(SHAPE), 0.0)
    told = create("Square", eps=0.4, nb_queries=40)
    images = some_images(20)
    result = told(two_classes(), images, [0] * 20, detector=watching)
    alone = told(two_classes(), images, [0] * 20)
    assert alone.success.any()
    np.testing.assert_array_equal(result.success, alone.success)
    assert not result.rejections.any()
    # It stops at a success, as it does where nothing watches.
    assert (result.iterations[result.success] < 40).any()


@pytest.mark.parametrize("probe", [Probe, ProbeLabels])
def test_what_is_told_is_the_lesser_of_two_as_shares_of_the_clean_images(
    probe: type[Probe],
) -> None:
    probe.noted.clear()
    # Of the images that fool some are flagged and some are not.
    watching = Weighted(np.arange(6.0).reshape(SHAPE), 9.3)
    images = some_images(20)
    result = probe()(two_classes(), images, [0] * 20, detector=watching)
    numbers, rejected = [], 0
    for clean, moved, told in probe.noted:
        slacks = [9.3 - float(watching.score(one[None])[0]) for one in (clean, moved)]
        expected = min(lead(moved) / abs(lead(clean)), slacks[1] / abs(slacks[0]))
        if probe.labels_only:
            expected = float(np.sign(expected))
        assert told == pytest.approx(expected, rel=1e-3, abs=1e-4)
        numbers.append(told)
        rejected += slacks[1] < 0
    # The clean image is a query of its own.
    rejected += int(watching.detect(images).is_adversarial.sum())
    assert result.rejections.sum() == rejected
    assert 0 < rejected < result.iterations.sum()
    assert min(numbers) < 0 < max(numbers)


@pytest.mark.parametrize("name", ASKING)
def test_a_detector_that_flags_all_lets_nothing_through(name: str) -> None:
    images, labels = some_images(6), [0, 0, 1, 0, 0, 1]
    made = create(name, **{**EVERY[name], "nb_queries": 60})
    result = made(two_classes(), images, labels, detector=Weighted(1.0, -1.0))
    assert not result.success.any()
    assert result.flagged.all()
    np.testing.assert_array_equal(result.rejections, result.iterations)
    # One that flags nothing changes nothing of what is found by answers.
    free, plain = (
        made(two_classes(), images, labels, detector=detector)
        for detector in (Weighted(1.0, 100.0), None)
    )
    assert not free.rejections.any()
    assert not free.flagged.any()
    if name in LABELS_ONLY:
        np.testing.assert_array_equal(free.images, plain.images)
        np.testing.assert_array_equal(free.iterations, plain.iterations)
