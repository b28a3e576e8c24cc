from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks import create
from tests.attacks.test_model_checks import Rounded
from tests.attacks.victims import SHAPE, TWO_CLASSES, some_images, tanh_net

STEPS: dict[str, Any] = {"eps": 0.3, "eps_iter": 0.05, "nb_iter": 12}


class Coarse(keras.layers.Layer):
    """Rounds to tenths: its gradient is None."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.round(inputs * 10) / 10


def behind(first: keras.layers.Layer) -> keras.Model:
    """Makes the linear model of `TWO_CLASSES` with a layer before it."""
    image = keras.Input(SHAPE)
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(image, dense(keras.layers.Flatten()(first(image))))
    dense.set_weights([TWO_CLASSES])
    return model


def zeros(images: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    return np.zeros(len(images), np.int64)


def test_a_rounding_first_layer_stops_pgd_and_not_bpda() -> None:
    model, images = behind(Coarse(name="coarse")), some_images(30)
    labels = model(images).numpy().argmax(axis=1)
    with pytest.raises(ValueError, match="gradient is None from layer 'coarse' on"):
        create("PGD", **STEPS)(model, images, labels)

    # Enough to fool a linear model about any image.
    far = {"eps": 0.5, "eps_iter": 0.05, "nb_iter": 25}
    result = create("BPDA", **far, through=["coarse"])(model, images, labels)

    assert result.success.all()
    assert result.linf.max() <= 0.5 + 1e-6


def test_the_gradient_is_that_of_the_identity_at_the_layers_output() -> None:
    # A square, passed by: the slope behind it is taken where its output is.
    class Square(keras.layers.Layer):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return inputs**2

    net, images = tanh_net(), some_images(20)
    image = keras.Input(SHAPE)
    model = keras.Model(image, net.model(Square(name="square")(image)))
    one = {"eps": 0.5, "eps_iter": 0.05, "nb_iter": 1}

    result = create("BPDA", **one, through=["square"])(model, images, zeros(images))

    start = create("PGD", **{**one, "eps_iter": 1e-9})(model, images, zeros(images))
    slopes = net.gradient(start.images.astype(np.float64) ** 2, zeros(images))
    expected = np.clip(
        start.images + 0.05 * np.sign(slopes), images - 0.5, images + 0.5
    )
    np.testing.assert_allclose(result.images, np.clip(expected, 0, 1), atol=1e-5)


def test_a_layer_of_a_model_inside_is_found_and_so_is_the_model() -> None:
    image = keras.Input(SHAPE)
    inner = keras.Model(image, Coarse(name="inside")(image), name="purifier")
    model, images = behind(inner), some_images(10)
    by_layer, by_model = (
        create("BPDA", **STEPS, through=[name])(model, images, zeros(images))
        for name in ("inside", "purifier")
    )
    np.testing.assert_array_equal(by_layer.images, by_model.images)
    assert by_layer.linf.max() > 0.25


def test_the_model_is_left_as_it_was() -> None:
    layer = Coarse(name="coarse")
    model, images = behind(layer), some_images(4)
    before = model(images).numpy()
    create("BPDA", **STEPS, through=["coarse"])(model, images, zeros(images))
    assert "call" not in vars(layer)
    np.testing.assert_array_equal(model(images).numpy(), before)
    with pytest.raises(ValueError, match="gradient is None"):
        create("BIM", **STEPS)(model, images, zeros(images))


@pytest.mark.parametrize(
    ("through", "error", "expected"),
    [
        (["coarse"], ValueError, r"`through`.*has .*rounded.*Received: coarse"),
        (["dense"], ValueError, r"`through`.*keep the shape.*'dense'"),
        ("rounded", TypeError, r"`through`. Expected a sequence of names"),
        ([1], TypeError, r"`through`. Expected a sequence of names"),
    ],
)
def test_a_layer_that_cannot_be_passed_by_is_told(
    through: Any, error: type[Exception], expected: str
) -> None:
    layers = [Rounded(name="rounded"), keras.layers.Flatten()]
    layers.append(keras.layers.Dense(2, name="dense"))
    model = keras.Sequential([keras.Input(SHAPE), *layers])
    with pytest.raises(error, match=expected):
        create("BPDA", **STEPS, through=through)(model, some_images(2), [0, 1])


def test_a_second_layer_without_gradient_is_told() -> None:
    image = keras.Input(SHAPE)
    twice = Rounded(name="second")(Coarse(name="first")(image))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(twice)))
    with pytest.raises(ValueError, match=r"no gradient.*through=\('first',\)"):
        create("BPDA", **STEPS, through=["first"])(model, some_images(2), [0, 1])
    with pytest.raises(ValueError, match="gradient is None from layer 'first' on"):
        create("BPDA", **STEPS)(model, some_images(2), [0, 1])
