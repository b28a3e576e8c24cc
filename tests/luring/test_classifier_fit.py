import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.luring import LuredClassifier, answered_dataset, classifier
from keras_traps.luring.classifier import _top_two
from keras_traps.models.inference import predict
from tests.luring.conftest import lured, tiny_lure, tiny_target


def assert_alike(first: LuredClassifier, second: LuredClassifier) -> None:
    for a, b in zip(first.lure.weights, second.lure.weights, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-5, atol=1e-6)


def test_a_dataset_of_images_alone_trains_as_an_array(images: np.ndarray) -> None:
    arrays, dataset, eager = lured(), lured(), lured(run_eagerly=True)
    for model in (arrays, eager):
        model.fit(images, batch_size=20, shuffle=False, verbose=0)
    data = tf.data.Dataset.from_tensor_slices(images).batch(20).prefetch(1)
    dataset.fit(data, shuffle=False, verbose=0)
    assert_alike(dataset, arrays)
    assert_alike(eager, arrays)


def test_m_is_asked_once_about_images_in_an_array(
    images: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        asked.append(logits.shape[0])
        return _top_two(logits)

    monkeypatch.setattr(classifier, "_top_two", ask)
    model = lured()
    fit: dict[str, Any] = {"validation_split": 0.25, "epochs": 2, "verbose": 0}
    history = model.fit(tf.constant(images), labels, **fit).history
    assert len(history["val_accuracy"]) == 2
    # Once for all; no step that was traced since asked again.
    assert asked == [40]
    data = tf.data.Dataset.from_tensor_slices(images).batch(20)
    model.fit(data, shuffle=False, verbose=0)
    assert asked == [40, None]


def not_images(images: np.ndarray) -> list[Any]:
    broken = images.copy()
    broken[-1, 0, 0, 0] = np.nan
    return [images * 255, -images, broken]


def test_what_is_no_image_is_refused_by_fit_and_evaluate(images: np.ndarray) -> None:
    model = lured()
    for act in (functools.partial(model.fit, shuffle=False), model.evaluate):
        for array in not_images(images):
            with pytest.raises(ValueError, match=r"`x`.*\[0, 1\]"):
                act(array, verbose=0)
            data = tf.data.Dataset.from_tensor_slices(array).batch(20)
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"`x`.*\[0, 1\]"):
                act(data, verbose=0)
        pixels = (images * 255).astype(np.uint8)
        for integers in (pixels, tf.data.Dataset.from_tensors(pixels)):
            with pytest.raises(TypeError, match=r"`x`.*uint8"):
                act(integers, verbose=0)
        with pytest.raises(ValueError, match=r"`x`.*\(batch, 6, 6, 1\)"):
            act(images[:, :5], verbose=0)


@pytest.mark.slow
def test_a_step_can_be_compiled_by_xla(images: np.ndarray) -> None:
    compiled, plain = lured(jit_compile=True), lured()
    for model in (compiled, plain):
        model.fit(images, batch_size=20, shuffle=False, verbose=0)
    assert_alike(compiled, plain)


@pytest.mark.slow
def test_a_part_of_an_endless_dataset_is_an_epoch(images: np.ndarray) -> None:
    model = lured(steps_per_execution=2)
    data = answered_dataset(model.target, images, output="logits", batch_size=10)
    history = model.fit(
        data.repeat(),
        steps_per_epoch=4,
        epochs=2,
        shuffle=False,
        verbose=0,
        validation_data=data,
    ).history
    assert int(model.optimizer.iterations) == 8
    assert len(history["val_loss"]) == 2
    measured = model.evaluate(data, verbose=0, return_dict=True)
    assert measured["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-5)


def test_validation_has_the_loss_of_the_training(images: np.ndarray) -> None:
    lure = keras.layers.Conv2D(
        1, 3, padding="same", kernel_regularizer=keras.regularizers.L2(10.0)
    )
    model = LuredClassifier(tiny_target(), lure, output="logits")
    model.compile(keras.optimizers.SGD(1e-12))
    history = model.fit(
        images, batch_size=40, validation_data=(images,), verbose=0
    ).history
    (penalty,) = model.lure.losses
    assert float(penalty) > 1
    assert history["val_loss"] == pytest.approx(history["loss"], rel=1e-4)


def test_a_frozen_lure_is_refused_with_the_remedy(images: np.ndarray) -> None:
    model = lured()
    model.lure.trainable = False
    with pytest.raises(ValueError, match=r"`lure`.*lure.trainable = True"):
        model.fit(images, verbose=0)
    model.lure.trainable = True
    model.fit(images, verbose=0)


def test_how_it_was_compiled_survives_a_file(tmp_path: Path) -> None:
    model = lured(steps_per_execution=4, jit_compile=True, luring_weight=0.5)
    model.optimizer.build(model.lure.trainable_variables)
    model.save(tmp_path / "lured.keras")
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    assert loaded.steps_per_execution == 4
    assert loaded.jit_compile
    assert loaded.get_compile_config()["luring_weight"] == 0.5
    loaded.compile(loaded.optimizer, run_eagerly=True)
    loaded.save(tmp_path / "eager.keras")
    assert keras.saving.load_model(tmp_path / "eager.keras").run_eagerly


@pytest.mark.parametrize("eager", [False, True])
def test_labels_that_are_not_one_class_each_are_refused(
    images: np.ndarray, labels: np.ndarray, eager: bool
) -> None:
    model = lured(run_eagerly=eager)
    one_hot = np.eye(3)[labels]
    with pytest.raises(ValueError, match=r"`y`.*one-hot"):
        model.evaluate(images, one_hot, verbose=0)
    # One image, whose row would be compared with one answer.
    with pytest.raises(ValueError, match=r"`y`.*one-hot"):
        model.evaluate(images[:1], one_hot[:1], verbose=0)
    flat = model.evaluate(images, labels, verbose=0, return_dict=True)
    column = model.evaluate(images, labels[:, None], verbose=0, return_dict=True)
    assert column == flat
    with pytest.raises(ValueError, match=r"`y`.*'runner_up'"):
        model.evaluate(images, {"answer": labels}, verbose=0)


def test_what_is_no_layer_is_refused_by_the_name_of_the_argument() -> None:
    nothing: Any
    for nothing in (None, lambda images: images):
        with pytest.raises(TypeError, match=r"`lure`.*Keras layer"):
            LuredClassifier(tiny_target(), nothing, output="logits")


@pytest.mark.slow
def test_a_backup_goes_on_with_answers_and_several_steps_at_once(
    images: np.ndarray, tmp_path: Path
) -> None:
    class Killed(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            # In the middle of the second epoch, which is lost and made again.
            if int(self.model.optimizer.iterations) == 6:
                raise KeyboardInterrupt

    def fit(model: LuredClassifier, *callbacks: keras.callbacks.Callback) -> None:
        data = answered_dataset(model.target, images, output="logits", batch_size=10)
        model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=list(callbacks))

    plain, killed, restarted = (lured(steps_per_execution=2) for _ in range(3))
    fit(plain)
    backup = [
        keras.callbacks.BackupAndRestore(str(tmp_path / "backup")) for _ in range(2)
    ]
    with pytest.raises(KeyboardInterrupt):
        fit(killed, backup[0], Killed())
    fit(restarted, backup[1])
    assert int(restarted.optimizer.iterations) == 8
    assert_alike(restarted, plain)


@pytest.mark.slow
def test_the_best_checkpoint_can_be_told_by_the_agreement(
    images: np.ndarray, tmp_path: Path
) -> None:
    model = lured()
    path = tmp_path / "best.weights.h5"
    best = keras.callbacks.ModelCheckpoint(
        str(path),
        monitor="val_agreement",
        mode="max",
        save_best_only=True,
        save_weights_only=True,
    )
    history = model.fit(
        images, validation_data=images, epochs=3, callbacks=[best], verbose=0
    ).history
    # Compiled after, for an optimizer that has no state yet takes none.
    other = LuredClassifier(tiny_target(), tiny_lure(), output="logits")
    other.load_weights(path)
    other.compile()
    measured = other.evaluate(images, verbose=0, return_dict=True)
    assert measured["agreement"] == pytest.approx(max(history["val_agreement"]))


@pytest.mark.slow
def test_images_may_be_named_or_listed(images: np.ndarray) -> None:
    model, other = lured(), lured()
    expected = predict(model, images)
    for given in ([images], {"image": images}):
        found = model.predict(given, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert model.evaluate(given, verbose=0) == model.evaluate(images, verbose=0)
    model.fit([images], shuffle=False, verbose=0)
    other.fit(images, shuffle=False, verbose=0)
    assert_alike(model, other)
    data = tf.data.Dataset.from_tensors({"image": images, "label": np.zeros(40)})
    with pytest.raises(TypeError, match=r"`x`.*\(images, labels\).*'image', 'label'"):
        model.fit(data, shuffle=False, verbose=0)
    with pytest.raises(TypeError, match=r"`x`.*a list of 2"):
        model.fit([images, images], verbose=0)


def test_labels_in_an_array_are_classes(images: np.ndarray, labels: np.ndarray) -> None:
    model = lured()
    plain = model.evaluate(images, labels, verbose=0)
    assert model.evaluate(images, labels[:, np.newaxis], verbose=0) == plain
    for act in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"`y`.*77"):
            act(images, np.full(40, 77), verbose=0)
        with pytest.raises(TypeError, match="`y`"):
            act(images, np.full(40, 0.9), verbose=0)
    with pytest.raises(ValueError, match=r"`class_weight`.*alike"):
        model.fit(images, labels, class_weight={0: 2.0}, verbose=0)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "steps_per_epoch"])
@pytest.mark.parametrize("value", [2.0, float("nan"), 0])
def test_a_number_of_steps_that_is_none_is_named(
    name: str, value: float, images: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=f"argument `{name}`.*Received"):
        lured().fit(images, verbose=0, **{name: value})
