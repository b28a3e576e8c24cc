import dataclasses
import json
import re
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks import Attack, Batch, create
from keras_traps.attacks.base import Kind, Perturbed
from tests.attacks.victims import (
    SHAPE,
    TOWARDS_1,
    TWO_CLASSES,
    some_images,
    two_classes,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(Attack):
    """Answers with images that were chosen beforehand, by their ids."""

    images: npt.NDArray[Any]
    bound: float | None = None
    sizes: list[int] = dataclasses.field(default_factory=list)
    name: ClassVar[str] = "Given"
    kind: ClassVar[Kind] = "UA"

    @property
    def linf_bound(self) -> float | None:
        return self.bound

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


def test_a_targeted_attack_succeeds_where_the_answer_is_the_target(
    brightest: keras.Model,
) -> None:
    result = GivenTargeted(images=PAINTED)(
        brightest, CLEAN, [0, 0, 0, 2], y_target=[1, 1, 1, 1]
    )

    assert result.success.tolist() == [False, True, False, True]


def test_distances_are_those_to_the_clean_image(brightest: keras.Model) -> None:
    result = Given(images=PAINTED)(brightest, CLEAN, [0, 0, 0, 0])

    assert result.l0.tolist() == [2, 1, 3, 3]
    expected = [np.sqrt(0.17), 0.8, np.sqrt(0.49), np.sqrt(1.01)]
    np.testing.assert_allclose(result.l2, expected, rtol=1e-5)
    np.testing.assert_allclose(result.linf, [0.4, 0.8, 0.6, 0.9], rtol=1e-6)
    dtypes = [array.dtype.name for array in (result.l0, result.l2, result.linf)]
    assert dtypes == ["int64", "float32", "float32"]


def test_no_more_than_batch_size_images_are_attacked_at_once(
    brightest: keras.Model,
) -> None:
    attack = Given(images=PAINTED)

    result = attack(brightest, CLEAN, [0] * 4, batch_size=3)

    assert attack.sizes == [3, 1]
    np.testing.assert_array_equal(result.images, PAINTED)


def test_ids_count_from_zero_unless_given(brightest: keras.Model) -> None:
    attack = Given(images=PAINTED)
    order = [3, 1]
    result = attack(brightest, CLEAN[:2], [0, 0], ids=order)
    np.testing.assert_array_equal(result.images, PAINTED[order])
    result = attack(brightest, CLEAN[:2], [0, 0])
    np.testing.assert_array_equal(result.images, PAINTED[:2])


def test_dropout_is_off() -> None:
    image = keras.Input(SHAPE)
    hidden = keras.layers.Dropout(0.9)(keras.layers.Flatten()(image))
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(image, dense(hidden))
    dense.set_weights([TWO_CLASSES])
    images = some_images(8)

    result = create("FGSM", eps=0.1)(model, images, np.zeros(8, int))

    expected = images + np.float32(0.1) * TOWARDS_1.astype(np.float32)
    np.testing.assert_array_equal(result.images, expected)


def test_wider_numbers_are_taken() -> None:
    images = some_images(2)
    attack = create("FGSM", eps=0.1)

    wide = attack(two_classes(), images.astype(np.float64), np.array([0, 1], np.uint8))

    narrow = attack(two_classes(), images, [0, 1])
    assert wide.images.dtype == np.float32
    np.testing.assert_array_equal(wide.images, narrow.images)


def test_what_was_given_is_not_changed() -> None:
    images = some_images(2)
    before = images.copy()
    images.setflags(write=False)
    for name in ("FGSM", "PGD"):
        settings = {"eps_iter": 0.1, "nb_iter": 2} if name == "PGD" else {}
        create(name, eps=0.1, **settings)(two_classes(), images, [0, 1])
    np.testing.assert_array_equal(images, before)


IMAGES = some_images(3)


def changed(value: float) -> npt.NDArray[np.float32]:
    images = IMAGES.copy()
    images[1, 0, 0, 0] = value
    return images


@pytest.mark.parametrize(
    ("arguments", "error", "expected"),
    [
        ({"x": np.ones((3, *SHAPE), np.uint8)}, TypeError, "argument `x`.*divide"),
        ({"x": changed(float("nan"))}, ValueError, r"`x`. Expected finite pixels"),
        ({"x": changed(1.001)}, ValueError, r"`x`.*Received: minimum .* maximum 1.001"),
        ({"x": changed(-0.001)}, ValueError, r"`x`.*Received: minimum -0.001"),
        ({"x": IMAGES[..., 0]}, ValueError, r"`x`.*shape \(batch, 2, 3, 1\)"),
        ({"x": IMAGES[0]}, ValueError, r"`x`.*shape=\(2, 3, 1\)"),
        ({"x": IMAGES[:0], "y": []}, ValueError, r"`x`. Expected at least one image"),
        (
            {"y": [0, 1, 2]},
            ValueError,
            "`y`.*from 0 to 1. Received class.* to 2",
        ),
        ({"y": [0, -1, 1]}, ValueError, "`y`.*ids from -1 to 1"),
        ({"y": np.eye(2)[[0, 1, 0]]}, ValueError, "`y`.*not one-hot rows"),
        ({"y": [0.0, 1.0, 0.0]}, TypeError, "`y`. Expected integer class ids"),
        ({"y": [0, 1]}, ValueError, r"`y`. Expected shape \(3,\)"),
        ({"y": [[0], [1], [0]]}, ValueError, r"`y`. Expected shape \(3,\)"),
        ({"y_target": [1, 0, 1]}, ValueError, "`y_target`. FGSM is untargeted"),
        ({"output": "softmax"}, ValueError, "`output`. Expected one of .'logits'"),
        ({"output": "probabilities"}, ValueError, "do not look like probabilities"),
        ({"loss": "hinge"}, ValueError, r"`loss`.*cross_entropy.*margin.*'hinge'"),
        ({"ids": [0, 1]}, ValueError, r"`ids`. Expected shape \(3,\)"),
        ({"ids": [0, 1, -1]}, ValueError, r"`ids`. Expected numbers from 0.*-1 to 1"),
        ({"ids": [0.0, 1.0, 2.0]}, TypeError, r"`ids`. Expected integer"),
        ({"batch_size": 0}, ValueError, "`batch_size`. Expected at least 1"),
        ({"batch_size": -1}, ValueError, "`batch_size`. Expected at least 1"),
        ({"batch_size": 2.0}, ValueError, "`batch_size`. Expected an integer"),
        ({"batch_size": None}, ValueError, "`batch_size`. Expected an integer"),
        ({"seed": -1}, ValueError, "`seed`. Expected at least 0"),
        ({"seed": 1.5}, ValueError, "`seed`. Expected an integer"),
        ({"x": tf.data.Dataset.range(3)}, TypeError, "`x`. Expected an array"),
        ({"model": lambda x: x}, TypeError, "Expected a Keras model"),
        ({"model": keras.Sequential()}, ValueError, "Expected a built model"),
    ],
)
def test_a_wrong_call_is_told(
    arguments: dict[str, Any], error: type[Exception], expected: str
) -> None:
    call = {"model": two_classes(), "x": IMAGES, "y": [0, 1, 0], **arguments}
    with pytest.raises(error, match=expected):
        create("FGSM", eps=0.1)(**call)


@pytest.mark.parametrize(
    ("targets", "error", "expected"),
    [
        (None, ValueError, r"`y_target`. LLC is targeted.*Received: None"),
        ([1, 1, 1], ValueError, "`y_target`.*other than the true class.*at index 1"),
        ([1, 2, 1], ValueError, "`y_target`. Expected class ids from 0 to 1"),
        ([1, 0], ValueError, r"`y_target`. Expected shape \(3,\)"),
        ([1.0, 0.0, 1.0], TypeError, "`y_target`. Expected integer"),
    ],
)
def test_wrong_targets_are_told(
    targets: Any, error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        create("LLC", eps=0.1)(two_classes(), IMAGES, [0, 1, 0], y_target=targets)


@pytest.mark.parametrize(
    ("value", "bound", "expected"),
    [
        (1.25, None, r"Given left \[0, 1\] at the examples \[1\]: .* to 1.25"),
        (float("nan"), None, r"Given gave images that are not finite.* \[1\]\.$"),
        (0.9, 0.05, r"Given left its ball of radius 0.05 at the examples \[1\]"),
    ],
)
def test_an_attack_that_breaks_its_promise_is_stopped(
    value: float, bound: float | None, expected: str
) -> None:
    with pytest.raises(RuntimeError, match=expected):
        Given(images=changed(value), bound=bound)(two_classes(), IMAGES, [0, 1, 0])


def test_rounding_does_not_count_as_leaving_the_ball() -> None:
    images = IMAGES + np.float32(0.1)
    result = Given(images=images, bound=0.1)(two_classes(), IMAGES, [0, 1, 0])
    np.testing.assert_array_equal(result.images, images)


@pytest.mark.parametrize("shape", [(12,), (4, 3), (None, None, 1), (2, 3, None)])
@pytest.mark.parametrize("name", ["FGSM", "MIM"])
def test_a_model_of_no_images_of_one_size_is_refused(
    name: str, shape: tuple[int | None, ...]
) -> None:
    image = keras.Input(shape)
    summed = keras.layers.Lambda(lambda x: keras.ops.ones((1, 2)) * keras.ops.sum(x))
    model = keras.Model(image, summed(image))
    settings = {"eps_iter": 0.1, "nb_iter": 1} if name == "MIM" else {}
    expected = re.escape("argument `model`. Expected a model whose input is (batch, h")
    with pytest.raises(ValueError, match=expected):
        create(name, eps=0.1, **settings)(model, IMAGES, [0, 1, 0])


def test_numpy_scalars_become_plain_data() -> None:
    attack = create(
        "BIM",
        eps=np.float32(0.25),
        eps_iter=np.float64(0.1),
        nb_iter=np.int64(3),
        abort_early=np.bool_(True),
    )
    assert json.loads(json.dumps(attack.settings())) == {
        "eps": 0.25,
        "eps_iter": 0.1,
        "nb_iter": 3,
        "abort_early": True,
    }


@pytest.mark.parametrize("value", ["no", None, 1])
def test_a_flag_that_is_none_is_named(value: Any) -> None:
    settings = {"eps": 0.1, "eps_iter": 0.1, "nb_iter": 1, "abort_early": value}
    with pytest.raises(ValueError, match=f"`abort_early`.*abort_early={value!r}"):
        create("PGD", **settings)


def test_settings_are_plain_data() -> None:
    attack = create("UMIFGSM", eps=0.3, eps_iter=0.05, nb_iter=15)
    assert attack.settings() == {
        "eps": 0.3,
        "eps_iter": 0.05,
        "nb_iter": 15,
        "decay_factor": 1.0,
    }
    assert attack.linf_bound == 0.3
    assert not attack.targeted


def test_an_attack_bounds_nothing_unless_it_says_so(brightest: keras.Model) -> None:
    assert Given(images=PAINTED).linf_bound is None
    assert Given(images=PAINTED).l2_bound is None
    result = Given(images=PAINTED)(brightest, CLEAN, [0] * 4)
    assert result.linf.max() > 0.8


def test_settings_cannot_be_changed_afterwards() -> None:
    attack = create("FGSM", eps=0.3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.eps = 0.1  # type: ignore[attr-defined]
