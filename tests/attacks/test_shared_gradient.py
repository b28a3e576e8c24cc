"""Facts about the gradient that attacks through cleverhans share."""

import keras
import numpy as np
import pytest
from cleverhans.tf2.utils import compute_gradient

from keras_traps.attacks.losses import Loss
from tests.attacks.calling import SINGLE_STEP, attack
from tests.attacks.victims import TWO_CLASSES, linear, some_images


def traces(name: str, model: keras.Model, loss: Loss = "cross_entropy") -> int:
    """Attacks batches of 5, 4, 3 and 1; returns how many gradients were traced."""
    before = compute_gradient.experimental_get_tracing_count()
    for count, batch_size in [(5, 5), (4, 4), (3, 3), (4, 3)]:
        attack(
            name,
            model,
            some_images(count),
            np.arange(count) % 2,
            SINGLE_STEP[name],
            batch_size=batch_size,
            loss=loss,
        )
    count = compute_gradient.experimental_get_tracing_count() - before
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("name", SINGLE_STEP)
def test_a_gradient_is_traced_once_for_batches_of_any_size(name: str) -> None:
    model = linear(TWO_CLASSES)
    assert traces(name, model) == 1
    assert traces(name, model) == 0


def test_attacks_of_one_gradient_share_its_trace() -> None:
    model = linear(TWO_CLASSES)
    made = [traces(name, model) for name in SINGLE_STEP]
    # Away from a class, and towards one.
    assert made == [1, 1, 0, 0]


def test_another_loss_is_another_gradient() -> None:
    model = linear(TWO_CLASSES)
    assert traces("FGSM", model) == 1
    assert traces("FGSM", model, "margin") == 1
