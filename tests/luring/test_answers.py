import keras
import numpy as np
import pytest

from keras_traps.luring import answered_dataset, frozen_answers
from keras_traps.models.inference import predict
from keras_traps.models.outputs import Output
from tests.luring.conftest import tiny_target


@pytest.mark.parametrize("ends", ["logits", "softmax"])
def test_the_answers_are_the_two_largest_logits(ends: str, images: np.ndarray) -> None:
    target = tiny_target(ends=ends)
    output: Output = "logits" if ends == "logits" else "probabilities"
    answers = frozen_answers(target, images, output=output, batch_size=7)
    ranked = np.argsort(-predict(target, images), axis=1)
    np.testing.assert_array_equal(answers.answer, ranked[:, 0])
    np.testing.assert_array_equal(answers.runner_up, ranked[:, 1])


def test_a_saturated_softmax_still_has_its_runner_up() -> None:
    inputs = keras.Input((1, 1, 1))
    x = keras.layers.Flatten()(inputs)
    dense = keras.layers.Dense(4, activation="softmax")
    target = keras.Model(inputs, dense(x))
    # The probabilities of all but the first are exactly 0 in float32.
    dense.set_weights([np.zeros((1, 4)), np.array([0.0, -300.0, -200.0, -250.0])])
    answers = frozen_answers(
        target, np.zeros((1, 1, 1, 1), np.float32), output="probabilities"
    )
    assert (answers.answer[0], answers.runner_up[0]) == (0, 2)


def test_the_dataset_joins_images_answers_and_labels(
    images: np.ndarray, labels: np.ndarray
) -> None:
    target = tiny_target()
    answers = frozen_answers(target, images, output="logits")
    order = np.array([[3, 5], [5, 0]])
    data = answered_dataset(target, images, labels, output="logits", order=order)
    for rows, (pixels, told) in zip(order, data, strict=True):
        np.testing.assert_array_equal(pixels, images[rows])
        np.testing.assert_array_equal(told["answer"], answers.answer[rows])
        np.testing.assert_array_equal(told["runner_up"], answers.runner_up[rows])
        np.testing.assert_array_equal(told["label"], labels[rows])


def test_without_an_order_the_images_come_as_they_are(images: np.ndarray) -> None:
    data = answered_dataset(tiny_target(), images, output="logits", batch_size=16)
    parts = list(data.as_numpy_iterator())
    assert [len(pixels) for pixels, _ in parts] == [16, 16, 8]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in parts]), images)
    assert all("label" not in told for _, told in parts)


def test_bad_input_is_named(images: np.ndarray, labels: np.ndarray) -> None:
    target = tiny_target()
    with pytest.raises(ValueError, match="`labels`"):
        answered_dataset(target, images, labels[:-1], output="logits")
    with pytest.raises(ValueError, match="`images`"):
        frozen_answers(target, images * 255, output="logits")
    with pytest.raises(ValueError, match="`output`"):
        frozen_answers(target, images, output="softmax")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`output`.*do not look like probabilities"):
        frozen_answers(target, images, output="probabilities")
