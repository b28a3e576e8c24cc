import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_traps.attacks import create
from keras_traps.datasets import Dataset
from keras_traps.layers import LuringInput
from keras_traps.luring import (
    LuredClassifier,
    agreement_model,
    answered_dataset,
    batch_order,
    classifier,
    frozen_answers,
    luring_metrics,
    target_model,
)
from keras_traps.luring.classifier import _top_two
from keras_traps.luring.losses import luring_loss
from keras_traps.models.forms import find_bounds
from keras_traps.models.inference import predict
from tests.luring.conftest import (
    CLASSES,
    GREY,
    SHAPE,
    answers_to,
    assert_alike,
    grey_lured,
    lured,
    small_classifier,
    tiny_lure,
    tiny_target,
    weights_of,
)


def test_fit_changes_the_lure_alone_and_lowers_the_loss(images: np.ndarray) -> None:
    model = lured()
    # Batch normalisation's means too: the target is never called as in training.
    target, lure = weights_of(model.target), weights_of(model.lure)
    history = model.fit(images, batch_size=20, epochs=8, verbose=0).history
    np.testing.assert_equal(weights_of(model.target), target)
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


def test_a_softmax_is_seen_through(images: np.ndarray) -> None:
    measured = []
    for kind in ("logits", "softmax"):
        target = tiny_target(ends=kind)
        target.layers[-1].set_weights(
            [np.full((64, CLASSES), 0.1), np.array([0.0, 150.0, -400.0])]
        )
        keras.utils.set_random_seed(1)
        output: Any = "logits" if kind == "logits" else "probabilities"
        model = LuredClassifier(target, tiny_lure(), output=output)
        model.compile(keras.optimizers.SGD(0.1))
        measured.append(model.evaluate(images, verbose=0))
        logits = predict(model.to_logits(), images)
        np.testing.assert_allclose(logits[:, 1] - logits[:, 2], 550.0, rtol=1e-4)
    np.testing.assert_allclose(measured[1], measured[0], rtol=1e-5)


def test_labels_are_measured_and_never_learnt_from(
    images: np.ndarray, labels: np.ndarray
) -> None:
    with_labels, without = (lured(run_eagerly=True) for _ in range(2))
    fit: dict[str, Any] = {"batch_size": 20, "shuffle": False, "verbose": 0}
    history = with_labels.fit(
        images, labels, validation_data=(images, labels), **fit
    ).history
    without.fit(images, **fit)
    np.testing.assert_equal(weights_of(with_labels.lure), weights_of(without.lure))
    right = predict(with_labels, images).argmax(axis=1) == labels
    assert history["val_accuracy"][-1] == pytest.approx(right.mean())
    assert {"val_loss", "val_agreement", "accuracy"} <= set(history)
    data = answered_dataset(with_labels.target, images, labels, output="logits")
    measured = with_labels.evaluate(data, verbose=0, return_dict=True)
    assert measured["accuracy"] == pytest.approx(right.mean())


def test_predict_is_the_target_of_the_lure(images: np.ndarray) -> None:
    model = lured()
    expected = predict(model.target, predict(model.to_lure_model(), images))
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-5)
    # Dropout and batch normalisation of the target stay as they are in training.
    np.testing.assert_allclose(model(images, training=True), expected, rtol=1e-5)


def test_it_survives_a_file_with_the_optimizers_state(
    images: np.ndarray, tmp_path: Path
) -> None:
    model = lured(loss="margin", run_eagerly=True)
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
    assert_alike(loaded.lure, model.lure)


@pytest.mark.parametrize("ends", ["logits", "softmax"])
def test_the_answers_are_the_two_largest_logits(ends: str, images: np.ndarray) -> None:
    target = tiny_target(ends=ends)
    output: Any = "logits" if ends == "logits" else "probabilities"
    answers = frozen_answers(target, images, output=output)
    ranked = np.argsort(-predict(target, images), axis=1)
    np.testing.assert_array_equal(answers.answer, ranked[:, 0])
    np.testing.assert_array_equal(answers.runner_up, ranked[:, 1])


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


def test_every_image_is_seen_before_one_is_seen_again() -> None:
    order = batch_order(10, 4, 5, seed=0)
    assert order.shape == (5, 4)
    for start in (0, 10):
        assert sorted(order.reshape(-1)[start : start + 10]) == list(range(10))
    assert (order.reshape(-1)[:10] != order.reshape(-1)[10:]).any()
    # A longer training begins as a shorter one.
    np.testing.assert_array_equal(batch_order(10, 4, 9, seed=0)[:5], order)
    assert (batch_order(10, 4, 5, seed=1) != order).any()


def test_m_is_asked_once_about_images_in_an_array(
    images: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        asked.append(logits.shape[0])
        return _top_two(logits)

    monkeypatch.setattr(classifier, "_top_two", ask)
    model = lured(run_eagerly=True)
    fit: dict[str, Any] = {"validation_split": 0.25, "epochs": 2, "verbose": 0}
    history = model.fit(tf.constant(images), labels, **fit).history
    assert len(history["val_accuracy"]) == 2
    # Once for all; no step asked again.
    assert asked == [40]
    data = tf.data.Dataset.from_tensor_slices(images).batch(20)
    model.fit(data, shuffle=False, verbose=0)
    assert asked == [40, 20, 20]


def not_images(images: np.ndarray) -> list[Any]:
    broken = images.copy()
    broken[-1, 0, 0, 0] = np.nan
    return [images * 255, -images, broken]


def test_what_is_no_image_is_refused_by_fit_and_evaluate(images: np.ndarray) -> None:
    fit = functools.partial(lured(run_eagerly=True).fit, shuffle=False)
    for act in (fit, lured().evaluate):
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
    with pytest.raises(KeyboardInterrupt):
        fit(killed, keras.callbacks.BackupAndRestore(tmp_path), Killed())
    fit(restarted, keras.callbacks.BackupAndRestore(tmp_path))
    assert int(restarted.optimizer.iterations) == 8
    assert_alike(restarted.lure, plain.lure)


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
    assert_alike(model.lure, other.lure)
    data = tf.data.Dataset.from_tensors({"image": images, "label": np.zeros(40)})
    with pytest.raises(TypeError, match=r"`x`.*\(images, labels\).*'image', 'label'"):
        model.fit(data, shuffle=False, verbose=0)
    with pytest.raises(TypeError, match=r"`x`.*a list of 2"):
        model.fit([images, images], verbose=0)


@pytest.mark.slow
def test_half_precision_survives_a_file_with_its_scale(
    images: np.ndarray, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(0)
    lure = LuringInput("cifar10", width=1 / 64, dropout=0.0, dtype="mixed_float16")
    model = LuredClassifier(tiny_target(), lure, output="logits")
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=64.0
    )
    model.compile(optimizer, run_eagerly=True)
    model.fit(images, batch_size=20, verbose=0)
    model.save(tmp_path / "lured.keras")
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    assert loaded.lure.dtype_policy.name == "mixed_float16"
    assert isinstance(loaded.optimizer, keras.optimizers.LossScaleOptimizer)
    assert int(loaded.optimizer.iterations) == 2
    np.testing.assert_array_equal(predict(loaded, images), predict(model, images))


@pytest.mark.slow
def test_a_process_that_imports_the_package_reads_them(tmp_path: Path) -> None:
    lured = LuredClassifier(tiny_target(), tiny_lure(), output="logits")
    lured.save(tmp_path / "lured.keras")
    agreed = agreement_model(lured.target, lured.lure, output="logits")
    agreed.save(tmp_path / "agreed.keras")
    code = (
        "import keras, keras_traps\n"
        "for name in ('agreed', 'lured'): keras.saving.load_model(f'{name}.keras')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.slow
def test_data_sets_and_eager_steps_train_as_an_array(images: np.ndarray) -> None:
    arrays, plain, answered = lured(), lured(), lured()
    eager = lured(run_eagerly=True)
    fit: dict[str, Any] = {"shuffle": False, "verbose": 0}
    for model in (arrays, eager):
        model.fit(images, batch_size=20, **fit)
    plain.fit(tf.data.Dataset.from_tensor_slices(images).batch(20), **fit)
    known = answered_dataset(answered.target, images, output="logits", batch_size=20)
    answered.fit(known, **fit)
    for model in (plain, answered, eager):
        assert_alike(model.lure, arrays.lure)


def test_only_p_is_trained_or_the_remedy_is_told(images: np.ndarray) -> None:
    model = lured(run_eagerly=True)
    model.target.trainable = True
    for act in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match=r"`target`.*target.trainable = False"):
            act(images)
    model.target.trainable = False
    model.lure.trainable = False
    with pytest.raises(ValueError, match=r"`lure`.*lure.trainable = True"):
        model.fit(images, verbose=0)
    model.lure.trainable = True
    model.fit(images[:2], verbose=0)


def test_what_is_no_classifier_of_images_is_refused() -> None:
    inputs = keras.Input((36,))
    target = keras.Model(inputs, layers.Dense(CLASSES)(inputs))
    with pytest.raises(ValueError, match=r"`network`.*\(36,\)"):
        LuredClassifier(target, tiny_lure(), output="logits")


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"luring_weight": 0.0}, ValueError, "`luring_weight`"),
        ({"loss": "margin", "luring_weight": 1.0}, ValueError, "loss='margin'"),
        ({"loss": "mse"}, ValueError, "`loss`"),
        ({"metrics": ["accuracy"]}, TypeError, "metrics"),
    ],
)
def test_what_it_cannot_be_compiled_with_is_refused(
    settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        lured(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 2.0}, "argument `epochs`.*Received"),
        ({"class_weight": {0: 2.0}}, "`class_weight`.*alike"),
        ({"sample_weight": np.ones(40)}, "`sample_weight`.*alike"),
    ],
)
def test_what_it_cannot_be_fitted_with_is_refused(
    settings: dict[str, Any], words: str, images: np.ndarray, labels: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=words):
        lured(run_eagerly=True).fit(images, labels, verbose=0, **settings)


def test_labels_are_one_class_each(images: np.ndarray, labels: np.ndarray) -> None:
    model = lured(run_eagerly=True)
    one_hot = np.eye(3)[labels]
    # Of one image the row would be compared with one answer.
    for count in (40, 1):
        with pytest.raises(ValueError, match=r"`y`.*one-hot"):
            model.evaluate(images[:count], one_hot[:count], verbose=0)
    with pytest.raises(ValueError, match=r"`y`.*one-hot"):
        model.evaluate(tf.data.Dataset.from_tensors((images, one_hot)), verbose=0)
    with pytest.raises(ValueError, match=r"`y`.*77"):
        model.fit(images, np.full(40, 77), verbose=0)
    with pytest.raises(TypeError, match="`y`"):
        model.evaluate(images, np.full(40, 0.9), verbose=0)
    with pytest.raises(ValueError, match=r"`y`.*'runner_up'"):
        model.evaluate(images, {"answer": labels}, verbose=0)
    flat = model.evaluate(images, labels, verbose=0)
    assert model.evaluate(images, labels[:, None], verbose=0) == flat


def test_how_it_was_compiled_survives_a_file(tmp_path: Path) -> None:
    model = lured(jit_compile=True, steps_per_execution=4, luring_weight=0.5)
    model.optimizer.build(model.lure.trainable_variables)
    model.save(tmp_path / "lured.keras")
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    assert loaded.get_compile_config() == model.get_compile_config()
    assert loaded.jit_compile


@keras.saving.register_keras_serializable(package="tests")
class Standardized(keras.layers.Layer):
    """Divides by a weight that is 0 until it is read."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.scale = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return images / self.scale


def test_the_classifier_is_not_judged_before_its_weights_are_read(
    images: np.ndarray, tmp_path: Path
) -> None:
    layer = Standardized()
    inner = keras.Sequential([keras.Input(SHAPE), layer, layers.Flatten()])
    layer.scale.assign(2.0)
    # Nor is it compiled.
    model = LuredClassifier(inner, tiny_lure(), output="logits")
    model.save(tmp_path / "lured.keras")
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    np.testing.assert_array_equal(predict(loaded, images), predict(model, images))


def test_half_precision_has_its_loss_scaled_unless_told_otherwise() -> None:
    scaling = keras.optimizers.LossScaleOptimizer
    policy = keras.DTypePolicy("mixed_float16")
    network = tiny_lure()
    network.dtype_policy = policy
    model = lured(network)
    model.compile(scaling(keras.optimizers.Adam(0.01), initial_scale=2.0))
    assert not isinstance(model.optimizer.inner_optimizer, scaling)
    model.compile("adam", auto_scale_loss=False)
    assert not isinstance(model.optimizer, scaling)
    # Within a network, and within M.
    convolution = layers.Conv2D(1, 3, padding="same", dtype=policy)
    inner = keras.Sequential([keras.Input(SHAPE), convolution])
    assert isinstance(lured(inner).optimizer, scaling)
    half = keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), layers.Dense(CLASSES, dtype=policy)]
    )
    half.trainable = False
    model = LuredClassifier(half, tiny_lure(), output="logits")
    model.compile("adam", "cross_entropy")
    assert isinstance(model.optimizer, scaling)
    assert not isinstance(lured().optimizer, scaling)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"images": np.full((2, *SHAPE), 255.0)}, "images"),
        ({"labels": np.zeros(3, int)}, "labels"),
        ({"batch_size": 0}, "batch_size"),
        ({"output": "probabilities"}, "output"),
    ],
)
def test_what_the_classifier_cannot_be_asked_is_named(
    settings: dict[str, Any], name: str
) -> None:
    given = {"images": np.zeros((2, *SHAPE)), "output": "logits", **settings}
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        answered_dataset(tiny_target(), **given)


@pytest.mark.slow
def test_a_classifier_that_was_trained_with_fit_can_be_lured_and_saved(
    images: np.ndarray, labels: np.ndarray, tmp_path: Path
) -> None:
    target = tiny_target()
    target.trainable = True
    loss = keras.losses.SparseCategoricalCrossentropy(True)
    target.compile("adam", loss, jit_compile=False)
    target.fit(images, labels, verbose=0)
    target.trainable = False
    model = LuredClassifier(target, tiny_lure(), output="logits")
    model.compile()
    # A compiled model's clone makes an optimizer, which a traced step cannot.
    model.fit(images, verbose=0)
    model.save(tmp_path / "lured.keras")
    # A warning of an optimizer whose state does not fit would be an error.
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    assert not loaded.target.compiled
    np.testing.assert_array_equal(predict(loaded, images), predict(model, images))


def test_a_model_of_grey_levels_is_lured_saved_attacked_and_deployed(
    grey_target: keras.Model, grey_digits: Dataset, tmp_path: Path
) -> None:
    model = grey_lured(grey_target)
    before = model.evaluate(grey_digits.pixels, verbose=0, return_dict=True)
    model.fit(grey_digits.pixels, batch_size=40, epochs=8, verbose=0)
    after = model.evaluate(
        grey_digits.pixels, grey_digits.labels, verbose=0, return_dict=True
    )
    assert after["loss"] < before["loss"]
    assert after["agreement"] > before["agreement"]
    assert 0 < after["accuracy"] < 1

    model.save(tmp_path / "lured.keras")
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    assert loaded.bounds == loaded.lure.bounds == find_bounds(loaded) == GREY
    few = grey_digits.take(30)
    np.testing.assert_array_equal(
        answers_to(loaded, few.pixels), answers_to(model, few.pixels)
    )

    found = create("MIM", eps=0.2, eps_iter=0.05, nb_iter=10)(
        loaded, few.pixels, few.labels, output="probabilities"
    )
    assert found.images.max() > 1
    assert found.success.sum() > 10
    deployed = agreement_model(grey_target, loaded.lure, output="probabilities")
    answers = {name: np.asarray(part) for name, part in deployed(found.images).items()}
    of_m = answers_to(grey_target, found.images).argmax(axis=1)
    np.testing.assert_array_equal(answers["agreed"], of_m == found.answers)
    np.testing.assert_array_equal(
        answers["class_id"], np.where(answers["agreed"], of_m, -1)
    )
    alone = target_model(grey_target, output="probabilities", bounds=GREY)
    np.testing.assert_array_equal(alone(found.images)["class_id"], of_m)
    measured = luring_metrics(augmented=found.answers, target=of_m, labels=few.labels)
    assert measured.ac_mop.count == 30 - found.success.sum()


def test_the_range_of_pixels_changes_nothing_that_p_learns(
    grey_target: keras.Model, grey_digits: Dataset
) -> None:
    unit = small_classifier()
    unit.set_weights(grey_target.get_weights())
    answers = []
    for target, bounds, images in (
        (unit, (0.0, 1.0), grey_digits.images),
        (grey_target, GREY, np.asarray(grey_digits.pixels)),
    ):
        model = grey_lured(target, bounds=bounds, run_eagerly=True)
        model.fit(images, batch_size=100, shuffle=False, verbose=0)
        answers.append(answers_to(model, images))
    np.testing.assert_allclose(answers[1], answers[0], rtol=0, atol=1e-5)


def test_data_sets_of_integers_train_as_an_array(
    grey_target: keras.Model, grey_digits: Dataset
) -> None:
    few = grey_digits.take(120)
    pairs = (few.pixels, few.labels)
    data = tf.data.Dataset.from_tensor_slices(pairs).batch(40)
    answered = answered_dataset(
        grey_target, data, output="probabilities", bounds=GREY, batch_size=40
    )
    assert answered.element_spec[1]["label"].dtype == tf.int64
    expected = frozen_answers(
        grey_target, few.pixels, output="probabilities", bounds=GREY
    )
    np.testing.assert_array_equal(
        expected.answer, answers_to(grey_target, few.pixels).argmax(axis=1)
    )
    histories = []
    for given in (pairs, (data,), (answered,)):
        model = grey_lured(grey_target, run_eagerly=True)
        fit: dict[str, Any] = {"shuffle": False, "verbose": 0}
        if given is pairs:
            fit["batch_size"] = 40
        histories.append(model.fit(*given, **fit).history)
        assert model.evaluate(data, verbose=0) == pytest.approx(
            model.evaluate(*pairs, verbose=0), rel=1e-4
        )
    for history in histories[1:]:
        assert history == {
            name: pytest.approx(values, rel=1e-4)
            for name, values in histories[0].items()
        }


def test_pixels_of_another_range_are_refused(
    grey_target: keras.Model, grey_digits: Dataset
) -> None:
    model = grey_lured(grey_target)
    data = tf.data.Dataset.from_tensor_slices
    for given in (grey_digits.images, data(grey_digits.images).batch(40)):
        with pytest.raises(ValueError, match=r"`x`.*use the range.*0 to 255"):
            model.fit(given, verbose=0)
    with pytest.raises(ValueError, match=r"`x`.*\[0, 255\]"):
        model.evaluate(2.0 * grey_digits.pixels, verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"`x`.*\[0, 255\]"):
        model.evaluate(data(grey_digits.images * 500).batch(40), verbose=0)
    for ask in (frozen_answers, answered_dataset):
        with pytest.raises(ValueError, match=r"`bounds`.*with bounds=\(0, 255\)"):
            ask(grey_target, grey_digits.images, output="probabilities")


def test_parts_of_other_bounds_are_refused(grey_target: keras.Model) -> None:
    network = layers.Conv2D(1, 3, padding="same", activation="sigmoid")
    wide: Any = {"output": "probabilities", "bounds": (0, 255)}
    for make in (LuredClassifier, agreement_model):
        with pytest.raises(
            ValueError, match=r"`lure`.*bounds=\(0, 255\).*\(0.0, 1.0\)"
        ):
            make(grey_target, LuringInput(), **wide)
        for lure in (LuringInput(), network):
            with pytest.raises(ValueError, match=r"`bounds`.*rescaling.*bounds=\(0, 2"):
                make(grey_target, lure, output="probabilities")
        grey = keras.Sequential(
            [keras.Input((8, 8, 1)), layers.Rescaling(1 / 255), network]
        )
        for bounded in (grey, LuringInput(network=grey, bounds=(0, 255))):
            with pytest.raises(ValueError, match=r"`lure`.*in \[0, 1\], whatever"):
                make(grey_target, bounded, **wide)
    model = LuredClassifier(grey_target, network, **wide)
    assert isinstance(model.lure, LuringInput)
    assert model.bounds == model.lure.bounds == GREY
    # P as a model of its own is the P that it is made of.
    again = LuredClassifier(grey_target, model.to_lure_model(), **wide)
    assert again.lure is model.lure


@pytest.mark.parametrize("ends", ["sigmoid", "log", "logit"])
def test_one_output_is_two_classes(ends: str, grey_digits: Dataset) -> None:
    images = grey_digits.images[:60]
    target = small_classifier(outputs=1)
    last = target.layers[-1]
    middle = np.median(answers_to(target, images))
    last.bias.assign([np.log(1 / middle - 1)])
    output: Any = "probabilities"
    border = 0.5
    if ends == "logit":
        last.activation = keras.activations.linear
        output, border = "logits", 0.0
    if ends == "log":
        # A sigmoid that cannot be taken off.
        image = keras.Input((8, 8, 1))
        target = keras.Model(image, 1.0 * target(image))
        target.trainable = False

    def second_of(model: keras.Model, images: np.ndarray) -> np.ndarray:
        return np.asarray(answers_to(model, images)[:, 0] > border, np.int64)

    second = second_of(target, images)
    assert second.sum() == 30
    answers = frozen_answers(target, images, output=output)
    np.testing.assert_array_equal(answers.answer, second)
    np.testing.assert_array_equal(answers.runner_up, 1 - second)

    model = grey_lured(target, bounds=(0.0, 1.0), output=output, run_eagerly=True)
    assert model.output_shape == (None, 1)
    fit: dict[str, Any] = {"batch_size": 20, "epochs": 4, "verbose": 0}
    history = model.fit(images, second[:, None], **fit).history
    assert history["agreement"] == history["accuracy"]
    assert history["loss"][-1] < history["loss"][0]

    found = agreement_model(target, model.lure, output=output)(images)
    assert found["probabilities"].shape == (60, 2)
    agreed = second == second_of(model, images)
    np.testing.assert_array_equal(found["class_id"], np.where(agreed, second, -1))
    alone = target_model(target, output=output)(images)
    np.testing.assert_array_equal(alone["class_id"], second)

    attack = create("MIM", eps=0.3, eps_iter=0.1, nb_iter=3)
    attacked = attack(model, images, second, output=output)
    np.testing.assert_array_equal(attacked.answers, second_of(model, attacked.images))


@pytest.mark.parametrize("shape", [(12, 12), (64,)])
def test_images_of_other_shapes_are_lured(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    target = small_classifier(shape=shape)
    images = np.random.default_rng(0).random((20, *shape), np.float32)
    lure: keras.layers.Layer = LuringInput(width=1 / 32)
    if len(shape) == 1:
        with pytest.raises(ValueError, match=r"`network` of your own.*64"):
            LuredClassifier(target, lure)
        lure = layers.Dense(64, activation="sigmoid")
    model = LuredClassifier(target, lure)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    model.fit(images, verbose=0)
    model.save(tmp_path / "lured.keras")
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    np.testing.assert_array_equal(answers_to(loaded, images), answers_to(model, images))
    deployed = agreement_model(target, loaded.lure, output="probabilities")
    assert deployed(images)["agreed"].shape == (20,)
    labels = answers_to(model, images).argmax(axis=1)
    found = create("MIM", eps=0.2, eps_iter=0.1, nb_iter=2)(
        loaded, images, labels, output="probabilities"
    )
    assert found.images.shape == images.shape


def test_what_is_no_classifier_is_refused_by_a_sentence() -> None:
    image = keras.Input((8, 8, 1))
    flat = layers.Flatten()(image)
    two = keras.Model(image, [layers.Dense(3)(flat), layers.Dense(2)(flat)])
    many = keras.Model(image, layers.Dense(4, activation="sigmoid")(flat))
    for model, words in ((two, "one output"), (many, "multi-label")):
        with pytest.raises(ValueError, match=f"`target`.*{words}"):
            LuredClassifier(model, LuringInput())
        with pytest.raises(ValueError, match=f"`target`.*{words}"):
            target_model(model, output="probabilities")
