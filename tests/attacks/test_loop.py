import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks import create
from keras_traps.attacks.loop import (
    L2,
    LINF,
    Loss,
    Moments,
    Stream,
    adam,
    fooled,
    per_example,
    rivals_lead,
)

LABELS = [0, 1, 2, 3, 2]

LOGITS = np.array(
    [
        [2.0, 1.0, 0.5, -1.0],  # right
        [2.0, 1.0, 0.5, -1.0],  # wrong
        [0.1, 0.2, 0.3, 0.4],
        [-5.0, 7.0, 6.9, 6.0],
        [0.0, 0.0, 9.0, -9.0],  # two rivals alike: the first counts
    ]
)

RIVALS = [1, 0, 3, 1, 0]


def gradient_of_the_lead(scale: float, loss: Loss = "margin") -> np.ndarray:
    logits = tf.constant((LOGITS * scale).astype(np.float32))
    labels = tf.constant(LABELS, tf.int64)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = rivals_lead(logits, labels, loss)
    return tape.gradient(value, logits).numpy()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_margins_gradient_is_the_same_at_any_scale(scale: float) -> None:
    gradient = gradient_of_the_lead(scale)

    # What grows the loss takes the given class down and its rival up, alike.
    expected = np.zeros_like(LOGITS)
    expected[range(5), LABELS] = -1
    expected[range(5), RIVALS] = 1
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0, 1e4])
def test_the_cross_entropy_has_its_own_gradient_direction_at_any_scale(
    scale: float,
) -> None:
    gradient = gradient_of_the_lead(scale, "cross_entropy")

    # p minus one at the given class, which is minus the sum of the rivals' p.
    exact = np.exp((LOGITS - LOGITS.max(axis=1, keepdims=True)) * scale)
    rivals = np.where(np.arange(4) == np.array(LABELS)[:, None], 0, exact)
    kept = rivals.sum(axis=1, keepdims=True) > 0
    rivals /= np.where(kept, rivals.sum(axis=1, keepdims=True), 1)
    rivals[range(5), LABELS] = -1
    size = np.abs(gradient).max(axis=1, keepdims=True)
    assert (size > 0).all()
    np.testing.assert_allclose(
        (gradient / size)[kept[:, 0]], rivals[kept[:, 0]], atol=1e-4
    )


def images(*values: float) -> tf.Tensor:
    return tf.constant(values, tf.float32)[None, None, :, None]


def flat(tensor: tf.Tensor) -> list[float]:
    return tensor.numpy().reshape(-1).tolist()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_an_l2_step_has_length_one_at_any_scale(scale: float) -> None:
    step = L2.step(images(3 * scale, 0, -4 * scale))
    np.testing.assert_allclose(flat(step), [0.6, 0, -0.8], rtol=1e-6)


def test_the_linf_ball_is_a_box_within_the_pixels_range() -> None:
    clean = images(0.5, 0.5, 0.1, 0.9)
    moved = images(0.9, 0.45, -1, 2)
    inside = LINF.project(moved, clean, tf.constant(0.2))
    np.testing.assert_allclose(flat(inside), [0.7, 0.45, 0, 1], rtol=1e-6)


def test_the_l2_ball_draws_back_along_the_way() -> None:
    clean = images(0.5, 0.5)
    inside = L2.project(images(0.8, 0.9), clean, tf.constant(0.25))
    np.testing.assert_allclose(flat(inside), [0.65, 0.7], rtol=1e-6)
    np.testing.assert_allclose(
        flat(L2.project(images(0.6, 0.6), clean, tf.constant(0.25))), [0.6, 0.6]
    )
    assert flat(L2.project(clean, clean, tf.constant(0.25))) == flat(clean)


def answer(logits: list[list[float]], label: int, targeted: bool) -> list[bool]:
    rows = tf.constant(logits, tf.float32)
    labels = tf.fill([len(logits)], tf.constant(label, tf.int64))
    return fooled(rows, labels, tf.constant(targeted)).numpy().tolist()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_an_answer_counts_when_it_is_the_one_wanted(scale: float) -> None:
    logits = (np.array([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0]]) * scale).tolist()
    assert answer(logits, 0, targeted=False) == [False, True]
    assert answer(logits, 0, targeted=True) == [True, False]


@pytest.mark.parametrize(
    ("logits", "away", "towards"),
    [
        # Within rounding of each other, they count for neither side.
        ([1.0, 1.0 + 1e-6], False, False),
        ([1.0 + 1e-6, 1.0], False, False),
        ([0.0, 0.0], False, False),
        # A masked class is no reason to doubt the others.
        ([1.0, 1.001, -1e9], True, False),
        ([1.001, 1.0, -1e30], False, True),
        # Two small ones may be what is left of large ones, from which each row's
        # largest was subtracted.
        ([-1e-6, 0.0, -9.0], False, False),
        ([-1e-3, 0.0, -9.0], True, False),
    ],
)
def test_an_answer_within_rounding_of_another_does_not_count(
    logits: list[float], away: bool, towards: bool
) -> None:
    assert answer([logits], 0, targeted=False) == [away]
    assert answer([logits], 0, targeted=True) == [towards]


def draw(generator: np.random.Generator) -> np.ndarray:
    return generator.random(3)


def test_ids_seeds_and_streams_are_told_apart() -> None:
    rows = [
        tuple(per_example(draw, np.array([i]), seed=seed, stream=stream)[0])
        for i in (0, 1, 2)
        for seed in (0, 1, 2)
        for stream in Stream
    ]
    assert len(set(rows)) == 9 * len(Stream)


def test_a_stream_keeps_its_number() -> None:
    # Results that were published depend on them.
    known = "TARGETS BALL_NOISE DIVERSITY SPSA_SEEDS OPTMARGIN_NOISES NOISE CLEVERHANS "
    known += "QUERIES EOT_SEEDS"
    assert [stream.name for stream in Stream] == known.split()
    assert list(Stream) == list(range(1, 10))


def test_adams_steps_are_those_of_keras() -> None:
    gradients = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    variable = keras.Variable(np.zeros(3, np.float32))
    theirs = keras.optimizers.Adam(0.1, epsilon=1e-3)
    ours, moments = tf.zeros(3), Moments(tf.zeros(3), tf.zeros(3))
    for number, gradient in enumerate(gradients, start=1):
        theirs.apply([tf.constant(gradient)], [variable])
        step, moments = adam(
            tf.constant(gradient),
            moments,
            tf.constant(float(number)),
            learning_rate=tf.constant(0.1),
            epsilon=1e-3,
        )
        ours -= step
        np.testing.assert_allclose(ours, variable.numpy(), rtol=1e-4)


def test_threads_may_attack_a_model_that_no_one_has_traced() -> None:
    image = keras.Input((6, 6, 1))
    hidden = keras.layers.Conv2D(2, 3, activation="relu")(image)
    answer = keras.layers.Dense(3)(keras.layers.Flatten()(hidden))
    images = np.random.default_rng(0).random((8, 6, 6, 1), np.float32)
    attack = create("PGD", eps=0.3, eps_iter=0.1, nb_iter=2)
    for _ in range(2):
        model = keras.models.clone_model(keras.Model(image, answer))
        gate = threading.Barrier(8)

        def call(model: keras.Model = model, gate: threading.Barrier = gate) -> Any:
            gate.wait()
            return attack(model, images, np.zeros(8, int)).images

        with ThreadPoolExecutor(8) as pool:
            made = [each.result() for each in [pool.submit(call) for _ in range(8)]]
        for one in made[1:]:
            np.testing.assert_array_equal(one, made[0])
