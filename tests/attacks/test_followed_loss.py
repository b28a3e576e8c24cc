"""Which attacks follow the loss that a call names."""

import functools

import keras
import numpy as np
import pytest

from keras_traps.attacks import AttackResult
from keras_traps.attacks.losses import Loss
from tests.attacks.calling import Settings, run
from tests.attacks.test_masked_class import ATTACKS
from tests.attacks.victims import PIXELS, SHAPE, linear

FOLLOWING: dict[str, Settings] = {name: ATTACKS[name] for name in ("BIM", "JSMA")}
WITHOUT: dict[str, Settings] = {
    **{name: ATTACKS[name] for name in ATTACKS if name not in FOLLOWING},
    "JSMA": {**ATTACKS["JSMA"], "saliency": "logits"},
}


@functools.cache
def three_classes() -> keras.Model:
    draw = np.random.default_rng(2)
    return linear(draw.normal(0, 0.5, (PIXELS, 3)).astype(np.float32))


def by_both_losses(name: str, settings: Settings) -> list[AttackResult]:
    images = np.random.default_rng(0).random((40, *SHAPE), np.float32) / 2
    classes = np.arange(40) % 3
    losses: list[Loss] = ["cross_entropy", "margin"]
    return [
        run(name, three_classes(), images, classes, settings, loss=loss)
        for loss in losses
    ]


@pytest.mark.parametrize("name", FOLLOWING)
def test_the_loss_is_what_an_attack_follows(name: str) -> None:
    one, other = by_both_losses(name, FOLLOWING[name])
    assert (one.images != other.images).any()


@pytest.mark.parametrize("name", WITHOUT)
def test_an_attack_with_an_objective_of_its_own_leaves_the_loss_unused(
    name: str,
) -> None:
    one, other = by_both_losses(name, WITHOUT[name])
    assert one.l2.max() > 0
    np.testing.assert_allclose(one.images, other.images, atol=1e-5)
