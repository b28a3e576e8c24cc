"""Facts about what the model answers, before an attack and after it."""

import dataclasses
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks import (
    Attack,
    Batch,
    create,
    least_likely_targets,
    random_targets,
)
from keras_traps.attacks.base import Kind, Perturbed
from tests.attacks.victims import SHAPE, TWO_CLASSES, some_images, two_classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(Attack):
    """Answers with images that were chosen beforehand, by their ids."""

    images: npt.NDArray[Any]
    bound: float | None = None
    l2_radius: float | None = None
    sizes: list[int] = dataclasses.field(default_factory=list)
    name: ClassVar[str] = "Given"
    kind: ClassVar[Kind] = "UA"

    @property
    def linf_bound(self) -> float | None:
        return self.bound

    @property
    def l2_bound(self) -> float | None:
        return self.l2_radius

    def perturb(self, batch: Batch) -> Perturbed:
        self.sizes.append(len(batch.images))
        return Perturbed(self.images[batch.ids], batch.ids)


class GivenTargeted(Given):
    name: ClassVar[str] = "GivenTargeted"
    kind: ClassVar[Kind] = "TA"


@pytest.fixture(scope="module")
def brightest() -> keras.Model:
    """Answers with the number of the brightest of three pixels."""
    image = keras.Input((1, 3, 1))
    return keras.Model(image, keras.layers.Flatten()(image))


# The clean images show class 0; these show 0, 1, 2 and 1.
PAINTED = np.array(
    [[0.9, 0.1, 0.1], [0.5, 0.9, 0.2], [0.2, 0.3, 0.8], [0.1, 1.0, 0.0]], np.float32
).reshape(4, 1, 3, 1)


CLEAN = np.repeat([[[[0.5], [0.1], [0.2]]]], 4, axis=0).astype(np.float32)


def test_an_untargeted_attack_succeeds_where_the_answer_is_another_class(
    brightest: keras.Model,
) -> None:
    result = Given(images=PAINTED)(brightest, CLEAN, [0, 0, 0, 1])

    assert result.success.tolist() == [False, True, True, False]
    assert result.success.dtype == bool
    np.testing.assert_array_equal(result.images, PAINTED)
    assert result.l0.tolist() == [2, 1, 3, 3]
    expected = [np.sqrt(0.17), 0.8, np.sqrt(0.49), np.sqrt(1.01)]
    np.testing.assert_allclose(result.l2, expected, rtol=1e-5)
    np.testing.assert_allclose(result.linf, [0.4, 0.8, 0.6, 0.9], rtol=1e-6)
    dtypes = [array.dtype.name for array in (result.l0, result.l2, result.linf)]
    assert dtypes == ["int64", "float32", "float32"]


def test_examples_come_by_their_ids_and_no_more_than_batch_size_at_once(
    brightest: keras.Model,
) -> None:
    attack, order = Given(images=PAINTED), [3, 1, 0]
    result = attack(brightest, CLEAN[:3], [0] * 3, ids=order, batch_size=2)
    assert attack.sizes == [2, 1]
    np.testing.assert_array_equal(result.images, PAINTED[order])
    # They count from zero unless given.
    result = attack(brightest, CLEAN[:2], [0, 0])
    np.testing.assert_array_equal(result.images, PAINTED[:2])


def test_a_targeted_attack_succeeds_where_the_answer_is_the_target(
    brightest: keras.Model,
) -> None:
    result = GivenTargeted(images=PAINTED)(
        brightest, CLEAN, [0, 0, 0, 2], y_target=[1, 1, 1, 1]
    )

    assert result.success.tolist() == [False, True, False, True]


IMAGES = some_images(3)


def changed(value: float) -> npt.NDArray[np.float32]:
    images = IMAGES.copy()
    images[1, 0, 0, 0] = value
    return images


TARGETED = {"name": "LLC", "y_target": [1, 0, 1]}


@pytest.mark.parametrize(
    ("arguments", "error", "expected"),
    [
        ({"x": changed(float("nan"))}, ValueError, r"`x`. Expected finite pixels"),
        ({"x": changed(1.001)}, ValueError, r"`x`.*Received: minimum .* maximum 1.001"),
        ({"x": IMAGES[..., 0]}, ValueError, r"`x`.*shape \(batch, 2, 3, 1\)"),
        ({"y": [0, 1, 2]}, ValueError, "`y`.*from 0 to 1. Received class.* to 2"),
        ({"y_target": [1, 0, 1]}, ValueError, "`y_target`. FGSM is untargeted"),
        ({"output": "softmax"}, ValueError, "`output`. Expected one of .'logits'"),
        ({"output": "probabilities"}, ValueError, "do not look like probabilities"),
        ({"loss": "hinge"}, ValueError, r"`loss`. FGSM follows .*margin.*'hinge'"),
        ({"ids": [0, 1, -1]}, ValueError, r"`ids`. Expected numbers from 0.*-1 to 1"),
        ({"batch_size": 0}, ValueError, "`batch_size`. Expected at least 1"),
        ({"seed": -1}, ValueError, "`seed`. Expected at least 0"),
        ({"model": lambda x: x}, TypeError, "Expected a Keras model"),
        ({"name": "LLC"}, ValueError, r"`y_target`. LLC is targeted.*Received: None"),
        ({**TARGETED, "y": [0, 1, 1]}, ValueError, "than the true class.*at index 2"),
        ({"name": "LLC", "y_target": [1, 2, 1]}, ValueError, "`y_target`.* from 0 to"),
    ],
)
def test_a_wrong_call_is_told(
    arguments: dict[str, Any], error: type[Exception], expected: str
) -> None:
    call = {"model": two_classes(), "x": IMAGES, "y": [0, 1, 0], **arguments}
    with pytest.raises(error, match=expected):
        create(call.pop("name", "FGSM"), eps=0.1)(**call)


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [
        (1.25, (None, None), r"Given left \[0, 1\] at the examples \[1\]: .* to 1.25"),
        (float("nan"), (None, None), r"images that are not finite, .* \[1\]\.$"),
        (0.9, (0.05, None), r"Given left its ball of radius 0.05 at .* \[1\]: "),
        (0.9, (None, 0.05), r"Given left its L2 ball of radius 0.05 at .* \[1\]: "),
    ],
)
def test_an_attack_that_breaks_its_promise_is_stopped(
    value: float, bounds: tuple[float | None, float | None], expected: str
) -> None:
    attack = Given(images=changed(value), bound=bounds[0], l2_radius=bounds[1])
    with pytest.raises(RuntimeError, match=expected):
        attack(two_classes(), IMAGES, [0, 1, 0])


def test_rounding_is_not_held_against_an_attack() -> None:
    length = float(0.1 * np.sqrt(6))
    attack = Given(images=IMAGES + np.float32(0.1), bound=0.1, l2_radius=length)
    attack(two_classes(), IMAGES, [0, 1, 0])


def test_a_model_of_images_of_no_known_size_is_refused() -> None:
    image = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(2)(pooled))
    with pytest.raises(ValueError, match=r"argument `model`.*one known size"):
        create("FGSM", eps=0.1)(model, IMAGES, [0, 1, 0])


class ShiftedLogarithm(keras.layers.Layer):
    """Is not a number below a pixel of 0.1."""

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return tf.math.log(images - 0.1)


def test_the_examples_whose_outputs_are_not_finite_are_named() -> None:
    image = keras.Input(SHAPE)
    hidden = keras.layers.Flatten()(ShiftedLogarithm()(image))
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(image, dense(hidden))
    dense.set_weights([TWO_CLASSES])
    # From white no step of 0.6 leads there.
    images = np.ones((3, *SHAPE), np.float32)
    images[[0, 2]] = some_images(2)
    expected = r"^FGSM gave .* outputs are not finite, at the examples \[10 12\]\.$"
    with pytest.raises(RuntimeError, match=expected):
        create("FGSM", eps=0.6)(model, images, [0] * 3, ids=[10, 11, 12], batch_size=1)


@pytest.mark.parametrize("targeted", [False, True])
def test_what_a_search_failed_with_is_the_clean_image(
    targeted: bool, brightest: keras.Model
) -> None:
    kind = GivenTargeted if targeted else Given
    searching = type("Searching", (kind,), {"searches": True})
    more = {"y_target": [1] * 4} if targeted else {}

    result = searching(images=PAINTED)(brightest, CLEAN, [0] * 4, **more)

    # The clean images show class 0; the painted ones 0, 1, 2 and 1.
    succeeded = np.array([False, True, not targeted, True])
    np.testing.assert_array_equal(result.success, succeeded)
    np.testing.assert_array_equal(result.images[succeeded], PAINTED[succeeded])
    np.testing.assert_array_equal(result.images[~succeeded], CLEAN[~succeeded])
    assert not result.l2[~succeeded].any()
    assert (result.answers[~succeeded] == 0).all()


def test_a_random_target_is_any_class_but_the_true_one() -> None:
    labels = np.arange(4000) % 10

    targets = random_targets(labels, 10, seed=0, ids=np.arange(4000))

    assert targets.dtype == np.int64
    counts = np.bincount((targets - labels) % 10, minlength=10)
    assert counts[0] == 0
    deviation = np.sqrt(4000 * 1 / 9 * 8 / 9)
    assert np.abs(counts[1:] - 4000 / 9).max() <= 5 * deviation
    assert set(targets) == set(range(10))


def test_a_random_target_depends_on_the_example_and_the_seed_alone() -> None:
    labels, ids = np.arange(50) % 10, np.arange(50) * 7
    targets = random_targets(labels, 10, seed=1, ids=ids)

    order = np.random.default_rng(0).permutation(50)[:20]
    again = random_targets(labels[order], 10, seed=1, ids=ids[order])
    np.testing.assert_array_equal(again, targets[order])
    assert (random_targets(labels, 10, seed=2, ids=ids) != targets).any()
    assert (random_targets(labels, 10, seed=1, ids=ids + 1) != targets).any()


def test_the_least_likely_class_has_the_lowest_output() -> None:
    outputs = np.array([[0.2, 0.5, 0.3], [9.0, -1.0, -2.0], [0.0, 0.0, 1.0]], "f4")
    targets = least_likely_targets(outputs)
    assert targets.tolist() == [0, 2, 0]
    assert targets.dtype == np.int64
    # The true class is left out where it is known.
    outputs = np.array([[0, 0, 1], [0, 0, 1], [3, 2, 1], [np.inf] * 3], "f4")
    targets = least_likely_targets(outputs, [0, 2, 2, 0])
    assert targets.tolist() == [1, 0, 1, 1]
    assert targets.dtype == np.int64


def test_targets_that_cannot_be_drawn_are_told() -> None:
    labels = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match=r"`num_classes`. Expected at least 2"):
        random_targets(labels, 1, seed=0, ids=labels)
    with pytest.raises(ValueError, match=r"`seed`. Expected at least 0"):
        random_targets(labels, 2, seed=-1, ids=labels)
    with pytest.raises(ValueError, match=r"`labels`.*from 0 to 2"):
        least_likely_targets(np.zeros((2, 3), np.float32), [0, 3])
