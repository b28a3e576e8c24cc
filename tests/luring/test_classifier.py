from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_traps.layers import LuringInput
from keras_traps.luring import (
    LuredClassifier,
    answered_dataset,
    batch_order,
    frozen_answers,
)
from keras_traps.luring.losses import luring_loss
from keras_traps.models.inference import predict
from tests.luring.conftest import CLASSES, SHAPE, tiny_lure, tiny_target


def lured(**compiling: Any) -> LuredClassifier:
    target = tiny_target()
    model = LuredClassifier(target, tiny_lure(), output="logits")
    settings = {"optimizer": keras.optimizers.Adam(0.01), **compiling}
    model.compile(**settings)
    return model


def weights_of(model: keras.layers.Layer) -> list[np.ndarray]:
    return [np.array(weight) for weight in model.weights]


def assert_same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("loss", ["luring", "cross_entropy"])
def test_fit_changes_the_lure_alone_and_lowers_the_loss(
    loss: str, images: np.ndarray
) -> None:
    model = lured(loss=loss)
    # Batch normalisation's means too: the target is never called as in training.
    target, lure = weights_of(model.target), weights_of(model.lure)
    history = model.fit(images, batch_size=20, epochs=8, verbose=0).history
    assert_same(weights_of(model.target), target)
    assert all(
        (a != b).any() for a, b in zip(weights_of(model.lure), lure, strict=True)
    )
    assert history["loss"][-1] < history["loss"][0]
    assert set(history) == {"loss", "agreement"}


def test_the_loss_is_that_of_equation_1(images: np.ndarray) -> None:
    model = lured(luring_weight=0.3)
    measured = model.evaluate(images, batch_size=13, verbose=0, return_dict=True)
    logits = predict(model, images)
    answer, runner_up = frozen_answers(model.target, images, output="logits")
    expected = np.mean(luring_loss(logits, answer, runner_up, 0.3))
    assert measured["loss"] == pytest.approx(expected, rel=1e-5)
    assert measured["agreement"] == pytest.approx(
        np.mean(logits.argmax(axis=1) == answer)
    )


@pytest.mark.parametrize("ends", ["softmax", "layer"])
def test_a_softmax_is_seen_through(ends: str, images: np.ndarray) -> None:
    measured = []
    for kind in ("logits", ends):
        target = tiny_target(ends=kind)
        target.layers[-1 if kind != "layer" else -2].set_weights(
            [np.full((64, CLASSES), 0.1), np.array([0.0, 150.0, -400.0])]
        )
        keras.utils.set_random_seed(1)
        output: Any = "logits" if kind == "logits" else "probabilities"
        model = LuredClassifier(target, tiny_lure(), output=output)
        model.compile(keras.optimizers.SGD(0.1))
        measured.append(model.evaluate(images, verbose=0))
        np.testing.assert_allclose(
            predict(model.to_logits(), images)[:, 1]
            - predict(model.to_logits(), images)[:, 2],
            550.0,
            rtol=1e-4,
        )
    np.testing.assert_allclose(measured[1], measured[0], rtol=1e-5)


def test_answers_computed_once_train_as_answers_computed_each_step(
    images: np.ndarray,
) -> None:
    each, once = lured(), lured()
    alone = tf.data.Dataset.from_tensor_slices(images).batch(8)
    each.fit(alone, shuffle=False, epochs=2, verbose=0)
    data = answered_dataset(once.target, images, output="logits", batch_size=8)
    once.fit(data, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(weights_of(each.lure), weights_of(once.lure), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_step_with_answers_holds_one_copy_of_the_target(images: np.ndarray) -> None:
    counts = []
    for told in (None, {"answer": tf.zeros(4, tf.int32), "runner_up": tf.ones(4)}):
        model = lured()
        model.optimizer.build(model.lure.trainable_variables)
        step = tf.function(lambda x, y, model=model: model.train_step((x, y)))
        told = told and {name: tf.cast(y, tf.int32) for name, y in told.items()}
        graph = step.get_concrete_function(tf.constant(images[:4]), told).graph
        kinds = [operation.type for operation in graph.get_operations()]
        counts.append(kinds.count("Conv2D"))
    # The target's one convolution and the lure's two; then the target's once more.
    assert counts == [4, 3]


def test_labels_are_measured_and_never_learnt_from(
    images: np.ndarray, labels: np.ndarray
) -> None:
    with_labels, without = lured(), lured()
    fit: dict[str, Any] = {"batch_size": 8, "shuffle": False, "verbose": 0}
    history = with_labels.fit(
        images, labels, validation_data=(images, labels), **fit
    ).history
    without.fit(images, **fit)
    assert_same(weights_of(with_labels.lure), weights_of(without.lure))
    right = predict(with_labels, images).argmax(axis=1) == labels
    assert history["val_accuracy"][-1] == pytest.approx(right.mean())
    assert set(history) == {
        f"{part}{name}"
        for part in ("", "val_")
        for name in ("loss", "agreement", "accuracy")
    }
    data = answered_dataset(without.target, images, labels, output="logits")
    assert without.evaluate(data, verbose=0, return_dict=True)[
        "accuracy"
    ] == pytest.approx((predict(without, images).argmax(axis=1) == labels).mean())


def test_predict_is_the_target_of_the_lure(images: np.ndarray) -> None:
    model = lured()
    expected = predict(model.target, predict(model.to_lure_model(), images))
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-5)
    # Dropout and batch normalisation of the target stay as they are in training.
    np.testing.assert_allclose(model(images, training=True), expected, rtol=1e-5)


@pytest.mark.slow
def test_several_steps_per_execution_train_alike(images: np.ndarray) -> None:
    one, four = lured(), lured(steps_per_execution=4)
    for model in (one, four):
        model.fit(images, batch_size=5, shuffle=False, verbose=0)
    for a, b in zip(weights_of(one.lure), weights_of(four.lure), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_trains(policy: str, images: np.ndarray) -> None:
    lure = LuringInput("cifar10", width=1 / 64, dropout=0.1, dtype=policy)
    model = LuredClassifier(tiny_target(), lure, output="logits")
    model.compile(keras.optimizers.Adam(0.01))
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    before = weights_of(model.lure)
    history = model.fit(images, batch_size=20, epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    changed = zip(weights_of(model.lure), before, strict=True)
    assert any((a != b).any() for a, b in changed)
    assert model.predict(images, verbose=0).dtype == np.float32


def test_it_survives_a_file_with_the_optimizers_state(
    images: np.ndarray, tmp_path: Path
) -> None:
    model = lured(loss="margin")
    model.fit(images, batch_size=8, verbose=0)
    model.save(tmp_path / "lured.keras")
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    assert type(loaded) is LuredClassifier
    assert not loaded.target.trainable_variables
    np.testing.assert_array_equal(predict(loaded, images), predict(model, images))
    assert loaded.get_compile_config() == model.get_compile_config()
    assert int(loaded.optimizer.iterations) == 5
    for copy in (loaded, model):
        copy.fit(images, batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(weights_of(loaded.lure), weights_of(model.lure), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_backup_and_restore_goes_on_where_it_was(
    images: np.ndarray, tmp_path: Path
) -> None:
    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    fit: dict[str, Any] = {
        "batch_size": 8,
        "shuffle": False,
        "verbose": 0,
        "epochs": 4,
    }
    plain = lured()
    plain.fit(images, **fit)
    killed = lured()
    backup = str(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        killed.fit(
            images,
            callbacks=[keras.callbacks.BackupAndRestore(backup), Killed()],
            **fit,
        )
    restarted = lured()
    history = restarted.fit(
        images, callbacks=[keras.callbacks.BackupAndRestore(backup)], **fit
    )
    assert len(history.history["loss"]) == 2
    for a, b in zip(weights_of(restarted.lure), weights_of(plain.lure), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_early_stopping_takes_its_metrics(images: np.ndarray) -> None:
    model = lured()
    stop = keras.callbacks.EarlyStopping(
        "val_agreement", mode="max", min_delta=2.0, patience=1
    )
    history = model.fit(
        images, validation_data=images, callbacks=[stop], epochs=5, verbose=0
    ).history
    # An agreement never rises by more than 1: it stops after the second epoch.
    assert len(history["val_agreement"]) == 2


@pytest.mark.slow
def test_tensorboard_takes_its_metrics(images: np.ndarray, tmp_path: Path) -> None:
    board = keras.callbacks.TensorBoard(str(tmp_path), write_graph=False)
    lured().fit(images, callbacks=[board], verbose=0)
    assert list(tmp_path.rglob("events*"))


def test_a_trainable_target_is_refused_with_the_reason(images: np.ndarray) -> None:
    model = lured()
    model.fit(images, verbose=0)
    model.target.trainable = True
    with pytest.raises(ValueError, match=r"`target`.*target.trainable = False"):
        model.fit(images, verbose=0)
    with pytest.raises(ValueError, match="`target`"):
        model.train_on_batch(images)


def test_sample_weights_are_refused(images: np.ndarray, labels: np.ndarray) -> None:
    model = lured(run_eagerly=True)
    with pytest.raises(ValueError, match="`sample_weight`"):
        model.fit(images, labels, sample_weight=np.ones(len(images)), verbose=0)


def unbuilt() -> keras.Model:
    return keras.Sequential([layers.Flatten(), layers.Dense(CLASSES)])


def of(shape: tuple[int, ...], classes: int) -> keras.Model:
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(inputs)))


@pytest.mark.parametrize(
    ("target", "output", "words"),
    [
        (unbuilt(), "logits", "built model"),
        (of(SHAPE, 1), "logits", "at least 2 classes"),
        (of((36,), CLASSES), "logits", "classifier of images"),
        (of(SHAPE, CLASSES), "probabilities", "do not look like probabilities"),
        (tiny_target(ends="softmax"), "logits", "do not look like logits"),
    ],
)
def test_what_is_no_classifier_of_images_is_refused(
    target: keras.Model, output: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        LuredClassifier(target, tiny_lure(), output=output)


def test_a_lure_of_another_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(6, 6, 1\).*\(3, 3, 1\)"):
        LuredClassifier(tiny_target(), layers.MaxPooling2D(), output="logits")


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_not_above_0_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="`luring_weight`"):
        lured(luring_weight=weight)


@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_a_weight_that_the_loss_does_not_have_is_refused(loss: str) -> None:
    with pytest.raises(ValueError, match=f"`luring_weight`.*loss='{loss}'"):
        lured(loss=loss, luring_weight=1.0)
    assert lured(loss=loss).get_compile_config()["luring_weight"] is None


def test_other_losses_and_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="`loss`"):
        lured(loss="mse")
    with pytest.raises(TypeError, match="metrics"):
        lured(metrics=["accuracy"])


@pytest.mark.parametrize("ends", ["logits", "softmax"])
def test_the_answers_are_the_two_largest_logits(ends: str, images: np.ndarray) -> None:
    target = tiny_target(ends=ends)
    output: Any = "logits" if ends == "logits" else "probabilities"
    answers = frozen_answers(target, images, output=output, batch_size=7)
    ranked = np.argsort(-predict(target, images), axis=1)
    np.testing.assert_array_equal(answers.answer, ranked[:, 0])
    np.testing.assert_array_equal(answers.runner_up, ranked[:, 1])


def test_a_saturated_softmax_still_has_its_runner_up() -> None:
    inputs = keras.Input((1, 1, 1))
    dense = layers.Dense(4, activation="softmax")
    target = keras.Model(inputs, dense(layers.Flatten()(inputs)))
    # The probabilities of all but the first are exactly 0 in float32.
    dense.set_weights([np.zeros((1, 4)), np.array([0.0, -300.0, -200.0, -250.0])])
    black = np.zeros((1, 1, 1, 1), np.float32)
    answers = frozen_answers(target, black, output="probabilities")
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
    plain = answered_dataset(target, images, output="logits", batch_size=16)
    parts = list(plain.as_numpy_iterator())
    assert [len(pixels) for pixels, _ in parts] == [16, 16, 8]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in parts]), images)
    assert all("label" not in told for _, told in parts)
    # A thread that tunes the pipeline is one that `fit` would wait for.
    for found in (data, plain, plain.map(lambda pixels, told: (pixels, told))):
        assert found.options().autotune.enabled is False


def test_bad_images_answers_and_orders_are_named(
    images: np.ndarray, labels: np.ndarray
) -> None:
    target = tiny_target()
    with pytest.raises(ValueError, match="`labels`"):
        answered_dataset(target, images, labels[:-1], output="logits")
    with pytest.raises(ValueError, match="`batch_size`"):
        answered_dataset(target, images, output="logits", batch_size=0)
    with pytest.raises(ValueError, match="`images`"):
        frozen_answers(target, images * 255, output="logits")
    unknown: Any = "softmax"
    with pytest.raises(ValueError, match="`output`"):
        frozen_answers(target, images, output=unknown)
    with pytest.raises(ValueError, match=r"`output`.*do not look like probabilities"):
        frozen_answers(target, images, output="probabilities")
    counts: Any = 2.0
    with pytest.raises(ValueError, match="`steps`"):
        batch_order(10, 4, counts, seed=0)


def test_every_image_is_seen_before_one_is_seen_again() -> None:
    order = batch_order(10, 4, 5, seed=0)
    assert order.shape == (5, 4)
    for start in (0, 10):
        assert sorted(order.reshape(-1)[start : start + 10]) == list(range(10))
    assert (order.reshape(-1)[:10] != order.reshape(-1)[10:]).any()
    # A longer training begins as a shorter one.
    np.testing.assert_array_equal(batch_order(10, 4, 9, seed=0)[:5], order)
    assert (batch_order(10, 4, 5, seed=1) != order).any()
