import keras
import numpy as np
import pytest
from keras import layers

from keras_traps.luring import opposite_directions
from keras_traps.models.outputs import subtract_row_maximum
from tests.luring.conftest import CLASSES, SHAPE, tiny_target


def linear(weights: np.ndarray) -> keras.Model:
    """Logits that are sums of the 4 values of an image, weighted."""
    inputs = keras.Input((2, 2, 1))
    dense = layers.Dense(weights.shape[1], use_bias=False)
    model = keras.Model(inputs, dense(layers.Flatten()(inputs)))
    dense.set_weights([weights])
    return model


# Weights of three classes whose sum is 0 for each value.
FIRST = np.array([[1.0, 1, -2], [-2, 1, 1], [3, 1, -4], [1, 0, -1]])
SECOND = np.array([[-1.0, 1, 0], [2, 1, -3], [3, 0, -3], [0, -1, 1]])


def test_products_below_zero_are_counted_and_zeros_are_not() -> None:
    images = np.random.default_rng(0).random((3, 2, 2, 1), np.float32)
    counts = opposite_directions(
        linear(FIRST), linear(SECOND), images, output="logits", batch_size=2
    )
    np.testing.assert_array_equal(counts, [[2, 0, 2]] * 3)


def test_what_is_added_to_all_logits_does_not_count() -> None:
    generator = np.random.default_rng(0)
    images = generator.random((3, 2, 2, 1), np.float32)
    plain = [linear(generator.normal(size=(4, 5))) for _ in range(2)]
    shifted = [keras.Model(m.input, subtract_row_maximum(m.output)) for m in plain]
    counts, same = (
        opposite_directions(first, second, images, output="logits")
        for first, second in (plain, shifted)
    )
    assert counts.any()
    np.testing.assert_array_equal(same, counts)


def test_slopes_whose_product_rounds_to_zero_are_counted() -> None:
    tiny = np.array([[1e-30, -1e-30]] * 4)
    counts = opposite_directions(
        linear(tiny), linear(-tiny), np.zeros((1, 2, 2, 1), np.float32), output="logits"
    )
    np.testing.assert_array_equal(counts, [[4, 4]])


@pytest.mark.parametrize("ends", ["logits", "softmax"])
def test_a_model_is_nowhere_opposite_to_itself(ends: str, images: np.ndarray) -> None:
    target = tiny_target(ends=ends)
    output = "logits" if ends == "logits" else "probabilities"
    counts = opposite_directions(target, target, images, output=output)  # type: ignore[arg-type]
    assert counts.shape == (len(images), CLASSES)
    assert not counts.any()


def test_another_number_of_classes_is_told() -> None:
    target = tiny_target()
    inputs = keras.Input(SHAPE)
    other = keras.Model(inputs, layers.Dense(5)(layers.Flatten()(inputs)))
    with pytest.raises(ValueError, match=r"`augmented`.*3.*5"):
        opposite_directions(
            target, other, np.zeros((1, *SHAPE), np.float32), output="logits"
        )


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_without_an_image_are_refused(
    images: np.ndarray, batch_size: int
) -> None:
    target = tiny_target()
    with pytest.raises(ValueError, match=f"argument `batch_size`.*={batch_size}"):
        opposite_directions(
            target, target, images, output="logits", batch_size=batch_size
        )


def test_other_outputs_or_images_than_declared_are_refused(images: np.ndarray) -> None:
    target = tiny_target()
    with pytest.raises(ValueError, match=r"`output`.*do not look like"):
        opposite_directions(target, target, images, output="probabilities")
    inputs = keras.Input((4, 4, 1))
    smaller = keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(inputs)))
    with pytest.raises(ValueError, match=r"`images`.*4, 4, 1"):
        opposite_directions(target, smaller, images, output="logits")
