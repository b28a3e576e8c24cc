import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_traps.datasets import Dataset
from keras_traps.layers import LuringInput
from keras_traps.luring import LuredClassifier, variants
from keras_traps.luring.augmentation import Augmentation
from keras_traps.luring.schedules import Schedule, Variant
from keras_traps.luring.training import Backup
from keras_traps.luring.variants import join, make_lure, train_variant
from keras_traps.models import madry_mnist_cnn
from keras_traps.models.inference import predict
from tests.luring.test_training import KilledError

SCHEDULE = Schedule(6, 4, (1e-2,))
WIDTH = 0.25


def target_of(shape: tuple[int, ...] = (12, 12, 1)) -> keras.Model:
    """A frozen classifier with all that acts otherwise in training."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    x = layers.Dropout(0.5)(layers.Flatten()(layers.BatchNormalization()(inputs)))
    model = keras.Model(inputs, layers.Dense(10)(x), name="target")
    model.trainable = False
    return model


def train(
    variant: Variant, target: keras.Model, data: Dataset, **settings: Any
) -> keras.Model:
    arguments: dict[str, Any] = {
        "output": "logits",
        "width": WIDTH,
        "stage": 3,
        "verbose": False,
        **settings,
    }
    return train_variant(variant, target, data, SCHEDULE, **arguments)


def weights_of(model: keras.layers.Layer) -> list[np.ndarray]:
    return [np.array(weight) for weight in model.weights]


def differ(first: keras.layers.Layer, second: keras.layers.Layer) -> list[bool]:
    pairs = zip(weights_of(first), weights_of(second), strict=True)
    return [bool((a != b).any()) for a, b in pairs]


@pytest.mark.parametrize("variant", ["stack", "auto", "ce", "luring"])
def test_a_variant_trains_what_it_should_and_leaves_the_target(
    variant: Variant, digits: Dataset
) -> None:
    target = target_of()
    before = weights_of(target)
    model = train(variant, target, digits)
    for a, b in zip(weights_of(target), before, strict=True):
        np.testing.assert_array_equal(a, b)
    keras.utils.set_random_seed(0)
    fresh = make_lure(variant, "mnist", width=WIDTH)
    fresh.build((None, 12, 12, 1))
    (lure,) = (layer for layer in model.layers if isinstance(layer, LuringInput))
    changed = dict(
        zip([w.path for w in fresh.weights], differ(lure, fresh), strict=True)
    )
    assert all(changed.values()), changed
    classes = predict(model, digits.images).shape[1:]
    assert classes == ((10,) if variant == "stack" else (12, 12, 1))


def test_the_stack_has_new_weights_of_the_targets_architecture(
    digits: Dataset,
) -> None:
    target = target_of()
    whole = train("stack", target, digits)
    (inner,) = (layer for layer in whole.layers if isinstance(layer, keras.Model))
    assert inner is not target
    assert inner.count_params() == target.count_params()
    assert inner.trainable
    # Its batch normalisation is trained too, its dropout acts.
    assert all(differ(inner, target))


def test_only_the_stack_looks_at_the_labels(digits: Dataset) -> None:
    other = dataclasses.replace(digits, labels=(digits.labels + 1) % 10)
    for variant in ("luring", "stack"):
        target = target_of()
        pair = [train(variant, target, data) for data in (digits, other)]
        assert any(differ(*pair)) == (variant == "stack")


def test_the_autoencoder_does_not_look_at_the_target(digits: Dataset) -> None:
    first, second = target_of(), target_of()
    second.layers[-1].set_weights([-w for w in first.layers[-1].get_weights()])
    assert not any(differ(*(train("auto", m, digits) for m in (first, second))))
    assert any(differ(*(train("ce", m, digits) for m in (first, second))))


def test_seed_loss_and_weight_decide(digits: Dataset) -> None:
    target = target_of()
    base = train("luring", target, digits)
    assert not any(differ(base, train("luring", target, digits)))
    others: list[dict[str, Any]] = [
        {"seed": 1},
        {"loss": "margin"},
        {"luring_weight": 0.5},
        {"augmentation": Augmentation(10.0, 0.2)},
    ]
    for settings in others:
        assert any(differ(base, train("luring", target, digits, **settings)))


@pytest.mark.parametrize(
    ("variant", "settings"),
    [
        ("stack", {}),
        ("luring", {}),
        ("luring", {"augmentation": Augmentation(10.0, 0.2)}),
    ],
)
def test_one_that_was_killed_ends_with_the_same_weights(
    variant: Variant,
    settings: dict[str, Any],
    digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = target_of()
    plain = train(variant, target, digits, **settings)
    save, saved = Backup.save, []

    def kill(self: Backup, model: keras.Model) -> None:
        save(self, model)
        saved.append(model)
        if len(saved) == 1:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Backup, "save", kill)
        backup = Backup(tmp_path / "b", {})
        with pytest.raises(KilledError):
            train(variant, target, digits, backup=backup, **settings)
    backup = Backup(tmp_path / "b", {}, resume=True)
    resumed = train(variant, target, digits, backup=backup, **settings)
    assert not any(differ(plain, resumed))


def hardly_trained(
    variant: Variant, target: keras.Model, data: Dataset, start: keras.Model
) -> keras.Model:
    return train_variant(
        variant,
        target,
        data,
        # So small a rate that the start shows in what is trained.
        Schedule(1, 4, (1e-7,)),
        output="logits",
        width=WIDTH,
        start=start,
        verbose=False,
    )


@pytest.mark.parametrize("variant", ["stack", "ce"])
def test_p_starts_from_another_ones_weights(variant: Variant, digits: Dataset) -> None:
    target = target_of()
    start = train("auto", target, digits, seed=5)
    before = weights_of(start)
    model = hardly_trained(variant, target, digits, start)
    (lure,) = (layer for layer in model.layers if isinstance(layer, LuringInput))
    for weight, taken in zip(weights_of(lure), before, strict=True):
        np.testing.assert_allclose(weight, taken, atol=1e-6)
    assert any(differ(lure, start))
    # It is copied: what it was taken from does not learn.
    for weight, taken in zip(weights_of(start), before, strict=True):
        np.testing.assert_array_equal(weight, taken)


def test_a_whole_stack_is_gone_on_with(digits: Dataset) -> None:
    target = target_of()
    start = train("stack", target, digits, seed=5)
    model = hardly_trained("stack", target, digits, start)
    trainable = [np.array(weight) for weight in model.trainable_weights]
    for weight, taken in zip(trainable, start.trainable_weights, strict=True):
        np.testing.assert_allclose(weight, taken, atol=1e-6)
    with pytest.raises(ValueError, match="argument `start`"):
        train("ce", target, digits, start=start)


def test_a_start_of_another_width_is_refused(digits: Dataset) -> None:
    target = target_of()
    start = train("auto", target, digits, width=2 * WIDTH)
    with pytest.raises(ValueError, match=r"argument `start`.*\(3, 3, 1, 4\).*, 8\)"):
        train("luring", target, digits, start=start)


def test_the_dropout_is_the_authors() -> None:
    rates = {
        (variant, dataset): make_lure(variant, dataset).dropout
        for variant in ("stack", "auto", "ce", "luring")
        for dataset in ("mnist", "svhn_cropped", "cifar10")
    }
    dropping = {key: rate for key, rate in rates.items() if rate}
    assert dropping == {
        ("luring", "svhn_cropped"): 0.15,
        ("luring", "cifar10"): 0.3,
        ("ce", "cifar10"): 0.3,
    }


def test_a_joined_model_is_the_target_of_the_lure(digits: Dataset) -> None:
    target = target_of()
    lure = train("luring", target, digits)
    joined = join(lure, target)
    expected = predict(target, predict(lure, digits.images))
    np.testing.assert_allclose(predict(joined, digits.images), expected, rtol=1e-5)
    np.testing.assert_allclose(joined(digits.images), expected, rtol=1e-5)


def test_what_cannot_be_trained_is_told(digits: Dataset) -> None:
    target = target_of()
    soft = keras.Model(target.input, layers.Softmax()(target.output))
    soft.trainable = False
    with pytest.raises(ValueError, match='returns "logits" for the variant "stack"'):
        train("stack", soft, digits, output="probabilities")
    target.trainable = True
    with pytest.raises(ValueError, match=r"target\.trainable = False"):
        train("luring", target, digits)


@pytest.mark.parametrize("dataset", ["mnist", "svhn_cropped", "cifar10"])
def test_three_steps_of_the_authors_lure(dataset: str) -> None:
    """P at its whole size, on noise: all of it is trained, and stays finite."""
    if dataset == "mnist":
        target = madry_mnist_cnn()
        target.trainable = False
    else:
        # The whole of M beside the whole of P takes too long on a CPU.
        target = target_of((32, 32, 3))
    lure = make_lure("luring", dataset)
    assert lure.preset == variants.PRESETS[dataset]
    model = LuredClassifier(target, lure, output="logits")
    model.compile(keras.optimizers.Adam(1e-4))
    before = weights_of(lure)
    images = np.random.default_rng(0).random((6, *target.input_shape[1:]), np.float32)
    history = model.fit(images, batch_size=2, verbose=0).history
    assert int(model.optimizer.iterations) == 3
    assert np.isfinite(history["loss"]).all()
    pairs = zip(weights_of(lure), before, lure.weights, strict=True)
    assert all((a != b).any() for a, b, w in pairs if "bias" not in w.path)
    assert all(np.isfinite(weight).all() for weight in weights_of(lure))
