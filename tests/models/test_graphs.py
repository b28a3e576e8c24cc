"""Facts about models that are made of other models' layers."""

from typing import Any

import keras
import numpy as np

from keras_traps.models.graphs import as_graph, is_its_graph
from tests.attacks.victims import TWO_CLASSES, linear, some_images


class Halving(keras.Model):
    """A functional model that does more than its graph tells."""

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        answer = super().call(inputs, training=training, mask=mask)
        return keras.tree.map_structure(lambda part: part / 2, answer)


def test_a_model_that_answers_with_a_list_becomes_one_with_a_tensor() -> None:
    plain, images = linear(TWO_CLASSES), some_images(3)
    listed = Halving([plain.input], [plain.output])
    assert not is_its_graph(listed)
    made = as_graph(listed, name="made")
    assert made.name == "made"
    np.testing.assert_allclose(made(images), plain(images) / 2, rtol=1e-6)


def test_a_plain_model_shares_its_layers() -> None:
    plain = linear(TWO_CLASSES)
    assert is_its_graph(plain)
    assert as_graph(plain, name="made").layers[-1] is plain.layers[-1]
