import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_traps.datasets import Dataset
from keras_traps.layers import LuringInput
from keras_traps.luring import training
from keras_traps.luring.classifier import batches
from keras_traps.luring.schedules import Schedule, Variant
from keras_traps.luring.training import (
    Backup,
    Picked,
    Trained,
    check_start,
    join,
    make_lure,
    train_target,
    train_variant,
    untrained,
)
from keras_traps.models.architectures import VictimRecipe
from keras_traps.models.inference import predict
from tests.luring.conftest import CLASSES, tiny_target, weights_of

SCHEDULE = Schedule(6, 4, (1e-2, 1e-3), (4,))
WIDTH = 0.25
MOVES = {"rotation": 10.0, "shift": 0.2}
VARIANTS: tuple[Variant, ...] = ("stack", "auto", "ce", "luring")

# 16 images are trained on, 4 to a step, and 4 say which epoch is the best.
RECIPE = VictimRecipe(3, 4, (3e-2, 1e-2), (2,), validation_split=0.2)


class KilledError(Exception):
    """Ends a training as a signal would."""


def target_of(shape: tuple[int, ...] = (12, 12, 1)) -> keras.Model:
    """A frozen classifier with all that acts otherwise in training."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    x = layers.Dropout(0.5)(layers.Flatten()(layers.BatchNormalization()(inputs)))
    model = keras.Model(inputs, layers.Dense(10)(x), name="target")
    model.trainable = False
    return model


@pytest.fixture(scope="module")
def target() -> keras.Model:
    return target_of()


def small_lure(*_: Any, **__: Any) -> LuringInput:
    """A P with all that holds a state of its own, quick to trace."""
    parts = [
        keras.Input((12, 12, 1)),
        layers.BatchNormalization(),
        layers.Dropout(0.3),
        layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
    ]
    return LuringInput(network=keras.Sequential(parts), name="lure")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "make_lure", small_lure)


def train(
    variant: Variant, target: keras.Model, data: Dataset, **settings: Any
) -> Trained:
    arguments: dict[str, Any] = {
        "output": "logits",
        "width": WIDTH,
        "stage": 3,
        **settings,
    }
    return train_variant(variant, target, data, SCHEDULE, **arguments)


def differ(first: keras.layers.Layer, second: keras.layers.Layer) -> list[bool]:
    pairs = zip(weights_of(first), weights_of(second), strict=True)
    return [bool((a != b).any()) for a, b in pairs]


def lure_in(model: keras.Model) -> LuringInput:
    (lure,) = (layer for layer in model.layers if isinstance(layer, LuringInput))
    return lure


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_trains_what_it_should_and_leaves_the_target(
    variant: Variant, digits: Dataset, target: keras.Model
) -> None:
    before = weights_of(target)
    model, picked = train(variant, target, digits)
    assert picked is None
    np.testing.assert_equal(weights_of(target), before)
    keras.utils.set_random_seed(0)
    assert all(differ(lure_in(model), small_lure()))
    if variant != "stack":
        assert model.output_shape == (None, 12, 12, 1)
        return
    (inner,) = (layer for layer in model.layers if isinstance(layer, keras.Model))
    # Its batch normalisation is trained too, its dropout acts.
    assert inner is not target
    assert all(differ(inner, target))


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_only_the_stack_looks_at_labels_and_all_but_auto_at_the_target(
    digits: Dataset, target: keras.Model
) -> None:
    other = dataclasses.replace(digits, labels=(digits.labels + 1) % 10)
    negative = target_of()
    negative.layers[-1].set_weights([-w for w in target.layers[-1].get_weights()])
    for variant in VARIANTS[:3]:
        base = train(variant, target, digits).model
        relabelled = train(variant, target, other).model
        assert any(differ(base, relabelled)) == (variant == "stack")
        if variant != "stack":
            another = train(variant, negative, digits).model
            assert any(differ(base, another)) == (variant != "auto")


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_seed_weight_and_moves_decide(digits: Dataset, target: keras.Model) -> None:
    base = train("luring", target, digits).model
    assert not any(differ(base, train("luring", target, digits).model))
    others: list[dict[str, Any]] = [
        {"seed": 1, "loss": "margin"},
        {"luring_weight": 0.5},
        {"shift": 0.2},
    ]
    for settings in others:
        assert any(differ(base, train("luring", target, digits, **settings).model))


@pytest.mark.parametrize(
    ("policy", "shift"),
    [("float32", 0.0), pytest.param("mixed_float16", 0.2, marks=pytest.mark.slow)],
)
def test_one_that_was_killed_ends_with_the_same_weights(
    policy: str,
    shift: float,
    bright: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = dataclasses.replace(RECIPE, rotation=50 * shift, shift=shift)
    keras.config.set_dtype_policy(policy)
    try:
        plain, killed, resumed = (tiny_classifier() for _ in range(3))
    finally:
        keras.config.set_dtype_policy("float32")
    expected = train_target(plain, bright, recipe)
    save = Backup.save

    def kill(self: Backup, state: Any) -> None:
        save(self, state)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Backup, "save", kill)
        backup = Backup(tmp_path, {})
        with pytest.raises(KilledError):
            train_target(killed, bright, recipe, backup=backup)
    backup = Backup(tmp_path, {}, resume=True)
    found = train_target(resumed, bright, recipe, backup=backup)
    assert found == expected
    assert not any(differ(resumed, plain))
    optimizers = (resumed.optimizer.variables, plain.optimizer.variables)
    for a, b in zip(*optimizers, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("variant", VARIANTS)
def test_images_are_moved_by_their_step_before_anyone_looks_at_them(
    variant: Variant,
    digits: Dataset,
    target: keras.Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(
        training, "train_in_stages", lambda model, make, **_: made.append(make)
    )
    for moves in ({}, MOVES):
        train(variant, target, digits, **moves)
    (still,), (moved,) = ([*make(2, 3)] for make in made)
    images = still[0]
    seen, told = moved if isinstance(moved, tuple) else (moved, None)
    assert seen.shape == images.shape
    assert np.abs(seen - images).max() > 0.1
    if variant == "stack":
        np.testing.assert_array_equal(told, still[1])
    elif variant == "auto":
        np.testing.assert_array_equal(told, seen)
    else:
        # M's answers are known to the images as they were only.
        assert still[1].keys() == {"answer", "runner_up"}
        assert told is None
    # A step sees the same where a training goes on from another one.
    third = [*made[1](0, 3)][2]
    again = third[0] if isinstance(third, tuple) else third
    np.testing.assert_array_equal(seen, again)


def moved(images: np.ndarray, number: int = 3, **moves: float) -> np.ndarray:
    settings: dict[str, Any] = {"rotation": 0.0, "shift": 0.0, "seed": 0, **moves}
    move: Any = training._mover(**settings)
    result: np.ndarray = np.asarray(move(number, images))
    return result


def test_no_image_is_moved_further_than_asked_and_none_shows_black() -> None:
    # A bright line: its centre says how far it went.
    line = np.zeros((64, 9, 9, 1), np.float32)
    line[:, 4] = 1
    profile = moved(line, shift=1 / 9)[:, :, 0, 0]
    went = (profile * np.arange(9)).sum(axis=1) / profile.sum(axis=1) - 4
    assert np.abs(went).max() <= 1 + 1e-4
    # Of 64 draws some come near the end of the range, either way.
    assert went.max() > 0.8
    assert went.min() < -0.8
    # Turned by at most 10 degrees, its ends four pixels from the centre.
    slope = moved(line, rotation=10.0).argmax(axis=1)[..., 0]
    assert np.abs(slope - 4).max() == 1
    white = moved(np.ones((8, 8, 8, 1), np.float32), rotation=45.0, shift=0.5)
    np.testing.assert_allclose(white, 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rotation", -1.0),
        ("shift", 1.0),
        ("stage", 0),
        ("output", "scores"),
        ("variant", "Stack"),
        ("luring_weight", float("inf")),
        # Of 24 images none.
        ("validation_split", 0.01),
    ],
)
def test_what_cannot_be_is_named(
    name: str, value: Any, digits: Dataset, target: keras.Model
) -> None:
    variant = "stack" if name == "output" else "luring"
    settings: dict[str, Any] = {"variant": variant, name: value}
    with pytest.raises(ValueError, match=f"argument `{name}`.*Received"):
        train(target=target, data=digits, **settings)


@pytest.mark.usefixtures("small")
def test_the_best_is_kept_by_images_that_it_does_not_see(
    digits: Dataset, target: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {image.tobytes(): row for row, image in enumerate(digits.images)}
    right = predict(target, digits.images).argmax(axis=1)
    scores, seen, asked = iter([0, 3, 2, 3]), [], []

    def scripted(model: keras.Model, images: np.ndarray) -> np.ndarray:
        if model is target:
            return predict(model, images)
        asked.append([rows[image.tobytes()] for image in images])
        seen.append(weights_of(model))
        answers = right[asked[-1]].copy()
        answers[next(scores) :] += 1
        return np.eye(11)[answers]

    start = train("luring", target, digits, seed=5).model
    trained: list[int] = []

    def note(images: Any, told: Any, *, order: np.ndarray) -> Any:
        pixels = np.asarray(images)
        trained.extend(rows[pixels[row].tobytes()] for row in order.ravel())
        return batches(images, told, order=order)

    monkeypatch.setattr(training, "predict", scripted)
    monkeypatch.setattr(training, "batches", note)
    settings: dict[str, Any] = {"validation_split": 0.25, "stage": 2, "start": start}
    model, picked = train("luring", target, digits, **settings)
    # What it starts from is looked at too; of two equals the first is kept.
    assert picked == Picked(2, 0.5)
    assert len(seen) == 4
    np.testing.assert_equal(weights_of(join(model, target)), seen[1])
    assert len(asked[0]) == 6
    assert len(set(trained)) == 18
    assert not set(trained) & set(asked[0])


def hardly_trained(
    variant: Variant, target: keras.Model, data: Dataset, start: keras.Model
) -> keras.Model:
    # So small a rate that the start shows in what is trained.
    schedule = Schedule(1, 4, (1e-7,))
    settings: dict[str, Any] = {"output": "logits", "width": WIDTH}
    return train_variant(variant, target, data, schedule, start=start, **settings).model


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "variant", [pytest.param("stack", marks=pytest.mark.slow), "ce"]
)
def test_p_starts_from_another_ones_weights(
    variant: Variant, digits: Dataset, target: keras.Model
) -> None:
    start, picked = train("auto", target, digits, seed=5, validation_split=0.25)
    # The last autoencoder is kept.
    assert picked is None
    before = weights_of(start)
    model = hardly_trained(variant, target, digits, start)
    pairs = zip(lure_in(model).trainable_weights, start.trainable_weights, strict=True)
    for weight, taken in pairs:
        np.testing.assert_allclose(np.array(weight), np.array(taken), atol=1e-6)
    # It is copied: what it was taken from does not learn.
    np.testing.assert_equal(weights_of(start), before)
    if variant == "stack":
        # A whole stack is gone on with too.
        check_start(model, "stack", target, small_lure())
        again = hardly_trained("stack", target, digits, model)
        pairs = zip(again.trainable_weights, model.trainable_weights, strict=True)
        for weight, taken in pairs:
            np.testing.assert_allclose(np.array(weight), np.array(taken), atol=1e-6)


def test_a_start_of_another_width_is_refused(
    digits: Dataset, target: keras.Model
) -> None:
    inputs = keras.Input((12, 12, 1))
    start = keras.Model(inputs, make_lure("auto", "mnist", width=2 * WIDTH)(inputs))
    with pytest.raises(ValueError, match=r"argument `start`.*\(3, 3, 1, 4\).*, 8\)"):
        train("luring", target, digits, start=start)


def test_the_dropout_is_the_authors() -> None:
    rates = {
        (variant, dataset): make_lure(variant, dataset).dropout
        for variant in VARIANTS
        for dataset in ("mnist", "svhn_cropped", "cifar10")
    }
    assert {key: rate for key, rate in rates.items() if rate} == {
        ("luring", "svhn_cropped"): 0.15,
        ("luring", "cifar10"): 0.3,
        ("ce", "cifar10"): 0.3,
    }


def test_a_copy_of_a_frozen_classifier_learns_in_every_layer(
    images: np.ndarray, labels: np.ndarray, tmp_path: Path
) -> None:
    inputs = keras.Input((6, 6, 1))
    target = keras.Model(inputs, tiny_target()(inputs))
    target.trainable = False
    # Its optimizer, built for frozen weights, is not taken over.
    target.compile("adam", "mse", jit_compile=False)
    target.save(tmp_path / "target.keras")
    target = keras.saving.load_model(tmp_path / "target.keras")
    fresh = untrained(target)
    assert not fresh.compiled
    before = weights_of(fresh)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    fresh.compile("sgd", loss, jit_compile=False)
    fresh.fit(images, labels, verbose=0)
    assert fresh.output_shape[1] == CLASSES
    pairs = zip(weights_of(fresh), before, strict=True)
    assert all((new != old).any() for new, old in pairs)
    assert not target.trainable_weights


@pytest.fixture(scope="module")
def bright() -> Dataset:
    """Dark and bright images, in turn."""
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 2
    pixels = rng.integers(0, 100, (20, 6, 6, 1)) + 150 * labels[:, None, None, None]
    names = ("dark", "bright")
    return Dataset(
        "mine", "train", pixels.astype(np.uint8), labels, 2, names, "made here"
    )


def tiny_classifier() -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = [layers.Flatten(), layers.Dense(8, "relu"), layers.Dropout(0.3)]
    head = layers.Dense(2, dtype="float32")
    return keras.Sequential([keras.Input((6, 6, 1)), *hidden, head])


def test_a_target_learns_and_makes_the_recipes_steps(bright: Dataset) -> None:
    model = tiny_classifier()
    recipe = VictimRecipe(10, 4, (1e-2,), validation_split=0.2)
    train_target(model, bright, recipe)
    assert int(model.optimizer.iterations) == 10 * 16 // 4
    answers = predict(model, bright.images).argmax(axis=1)
    assert (answers == bright.labels).mean() >= 0.9
    # Steps take the place of epochs, and the boundary scales: round(8 * 5 / 12).
    train_target(model, bright, RECIPE, steps=5)
    assert int(model.optimizer.iterations) == 5
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-2)


STATE = {"done": np.array(1)}


def test_a_folder_in_use_is_gone_on_with_or_refused(tmp_path: Path) -> None:
    # Where nothing was saved nothing is lost.
    Backup(tmp_path, {"seed": 1})
    settings = {"seed": 0, "rates": (1e-3, 1e-4)}
    backup = Backup(tmp_path, settings)
    backup.save(STATE)
    Backup(tmp_path, settings, resume=True)
    with pytest.raises(FileExistsError, match="--resume"):
        Backup(tmp_path, settings)
    changed = {"seed": 1, "rates": (1e-3, 2e-4)}
    with pytest.raises(ValueError, match="settings: rates, seed differ"):
        Backup(tmp_path, changed, resume=True)
    backup.discard()
    assert not tmp_path.exists()
    assert Backup(tmp_path, changed).load() == {}


def test_the_time_of_what_was_kept_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([100.0, 103.0, 150.0, 1000.0, 1002.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    killed = Backup(tmp_path, {})
    killed.save(STATE)
    # 47 seconds later it is killed, and goes on long after.
    assert killed.seconds == 3.0 + 47.0
    assert Backup(tmp_path, {}, resume=True).seconds == 3.0 + 2.0
