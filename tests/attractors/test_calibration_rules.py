import numpy as np
import pytest

from keras_traps.attractors.calibration_rules import (
    distances_by_step,
    step_weights_for,
)
from keras_traps.layers import QIMDecoder
from keras_traps.ops.codes import MessageKind
from tests.attractors.conftest import clean


def decoder(
    kind: MessageKind = "balanced", shape: tuple[int, ...] = (16, 16, 1)
) -> QIMDecoder:
    return QIMDecoder.from_seed(
        2, num_classes=6, shape=shape, messages=kind, step_weights=(3.0, 0.5)
    )


def test_the_steps_add_up_to_the_distances_of_the_decoder() -> None:
    images = clean(20, size=16)
    by_step = distances_by_step(decoder(), images, batch_size=8)
    assert by_step.shape == (2, 20, 6)
    expected = decoder().distances(images).numpy()
    added = 3.0 * by_step[0] + 0.5 * by_step[1]
    np.testing.assert_allclose(added, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("size", [16, 112])
def test_enlarged_images_are_refused_with_the_messages_that_tell_them_apart(
    size: int,
) -> None:
    enlarged = clean(30, size=size // 2).repeat(2, axis=1).repeat(2, axis=2)
    steps, shape = (3.0, 128.0), enlarged.shape[1:]
    by_step = distances_by_step(decoder("balanced", shape), enlarged, 30)
    with pytest.raises(ValueError, match=r'2x2 pixels.*unless messages="random"'):
        step_weights_for(by_step, steps, 0.5)
    by_step = distances_by_step(decoder("random", shape), enlarged, 30)
    small, large = step_weights_for(by_step, steps, 0.5)
    assert (small > 1, large) == (True, 1.0)


def test_images_of_one_value_are_refused() -> None:
    same = np.full((30, 16, 16, 1), 0.3, np.float32)
    for kind in ("balanced", "random"):
        by_step = distances_by_step(decoder(kind), same, 30)
        with pytest.raises(ValueError, match="Expected images that differ"):
            step_weights_for(by_step, (3.0, 128.0), 0.5)
