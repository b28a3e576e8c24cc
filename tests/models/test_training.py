import contextlib
import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_traps.datasets import Dataset, load
from keras_traps.models.training import (
    fit_on_workers,
    hold_out,
    is_chief,
    make_strategy,
    save_model,
    train,
)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("digits", "test").take(40)


def linear(
    classes: int = 10, activation: str | None = None, side: int = 8
) -> keras.Model:
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((side, side, 1))
    x = layers.Dropout(0.1)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(classes, activation=activation)(x))


@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 0.01), ("sgd", 0.05)])
def test_the_loss_falls_by_the_optimizer_asked_for(
    data: Dataset, optimizer: Any, rate: float
) -> None:
    model = linear()
    settings: dict[str, Any] = {"learning_rate": rate, "weight_decay": 1e-6}
    history = train(
        model, data, epochs=9, batch_size=8, optimizer=optimizer, **settings
    ).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    made = model.optimizer
    assert float(made.learning_rate) == pytest.approx(rate)
    assert made.weight_decay == 1e-6
    assert model.jit_compile is False
    if optimizer == "sgd":
        assert isinstance(made, keras.optimizers.SGD)
        assert (made.momentum, made.nesterov) == (0.9, True)


@pytest.mark.parametrize("augmented", [False, True])
def test_it_learns_from_the_corner_of_the_ball_that_fools_a_linear_model(
    augmented: bool,
) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(inputs)))
    draw = np.random.default_rng(0)
    grey = draw.integers(90, 160, (20, 8, 8, 1), np.uint8)
    labels = draw.integers(0, 2, 20)
    told = Dataset("two", "train", grey, labels, 2, ("a", "b"), "drawn")
    (weights, bias) = model.get_weights()
    uphill = np.sign(weights[:, 1] - weights[:, 0]) * (1 - 2 * labels)[:, None]
    moved = told.images.reshape(20, 64) + 0.1 * uphill
    if augmented:
        moved += 0.05
    logits = moved @ weights + bias
    expected = np.mean(
        np.logaddexp(0, logits[np.arange(20), 1 - labels] - logits[range(20), labels])
    )
    history = train(
        model,
        told,
        epochs=1,
        batch_size=20,
        learning_rate=1e-12,
        adversarial_eps=0.1,
        augment=layers.Rescaling(1.0, 0.05) if augmented else None,
        validation_split=0.0,
    ).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_cross_entropy_from_logits(data: Dataset) -> None:
    model = linear()
    _, held = hold_out(data, 39, seed=0)
    assert held is not None
    exponents = np.exp(np.asarray(model(held.images)))
    picked = exponents[np.arange(39), held.labels]
    expected = -np.log(picked / exponents.sum(axis=1)).mean()
    # A vanishing step leaves the model as it is; dropout is off for validation.
    history = train(
        model, data, epochs=1, learning_rate=1e-12, validation_split=0.99
    ).history
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_same_seeds_give_the_same_training(data: Dataset) -> None:
    runs = [train(linear(), data, epochs=1, seed=seed).history for seed in (5, 5, 6)]
    first, again, other = (run["loss"] + run["val_loss"] for run in runs)
    assert first == pytest.approx(again)
    assert first != pytest.approx(other)


def test_held_out_images_are_drawn_from_all_classes() -> None:
    data = load("digits")
    order = np.argsort(data.labels, kind="stable")
    ordered = dataclasses.replace(
        data, pixels=data.pixels[order], labels=data.labels[order]
    )
    rest, held = hold_out(ordered, 130, seed=0)
    assert held is not None
    assert len(set(held.labels.tolist())) == 10
    together = np.concatenate([rest.labels, held.labels])
    np.testing.assert_array_equal(np.sort(together), ordered.labels)
    assert hold_out(ordered, 0, seed=0)[1] is None


class Blindfold(layers.Layer):
    """Leaves nothing of the images, in training alone."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return keras.ops.zeros_like(inputs) if training else inputs


def test_what_augments_is_seen_by_training_alone(data: Dataset) -> None:
    model = linear()
    kernel = model.get_weights()[0]
    history = train(model, data, epochs=1, augment=Blindfold()).history
    # Black images move no kernel, and validation sees the images as they are.
    np.testing.assert_array_equal(model.get_weights()[0], kernel)
    _, held = hold_out(data, 4, seed=0)
    assert held is not None
    right = np.asarray(model(held.images)).argmax(axis=1) == held.labels
    assert history["val_accuracy"][-1] == pytest.approx(right.mean())


def test_a_model_is_left_compiled_and_without_what_augments(data: Dataset) -> None:
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)], name="same"
    )
    # What augments may have the model's name.
    augment = keras.Sequential([layers.GaussianNoise(0.1)], name="same")
    parts = list(model.layers)
    history = train(
        model,
        data,
        epochs=2,
        batch_size=10,
        learning_rate=0.05,
        falling=True,
        augment=augment,
        validation_split=0.0,
    )
    assert set(history.history) == {"loss", "accuracy"}
    assert model.layers == parts
    # The rate falls over all steps.
    rate = keras.optimizers.serialize(model.optimizer)["config"]["learning_rate"]
    assert rate["class_name"] == "CosineDecay"
    assert rate["config"]["initial_learning_rate"] == 0.05
    assert int(model.optimizer.iterations) == rate["config"]["decay_steps"] == 8
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(model.evaluate(data.images, data.labels, verbose=0)).all()
    model.fit(data.images, data.labels, epochs=1, verbose=0)


def test_half_precision_has_its_loss_scaled_behind_what_augments(data: Dataset) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = linear()
    finally:
        keras.config.set_dtype_policy("float32")
    train(model, data, epochs=1, augment=layers.GaussianNoise(0.1))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    inner = model.optimizer.inner_optimizer
    assert not isinstance(inner, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 2.0),
        ("batch_size", 0),
        ("seed", 1.5),
        ("learning_rate", 0.0),
        ("optimizer", "lion"),
        ("weight_decay", math.inf),
        ("adversarial_eps", 0.0),
        ("validation_split", 1.0),
    ],
)
def test_a_setting_out_of_range_is_named(data: Dataset, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"Invalid value for argument `{name}`"):
        train(linear(), data, **{"epochs": 1, name: value})


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"side": 9}, r"from images \(8, 8, 1\).*Received.*\(9, 9, 1\)"),
        ({"classes": 11}, r"to 10 classes.*Received.*\(11,\)"),
        ({"activation": "softmax"}, "returns logits"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    data: Dataset, model: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        train(linear(**model), data, epochs=1)


def test_a_batch_that_no_machine_can_fill_is_refused(data: Dataset) -> None:
    settings: dict[str, Any] = {"epochs": 1, "seed": 0, "verbose": 0}
    with pytest.raises(ValueError, match=r"`batch_size`.*40"):
        fit_on_workers(linear(), data, None, None, batch_size=41, **settings)


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "state.keras"
    path.write_text("old")

    def fail(unfinished: Path) -> None:
        assert unfinished.suffix == ".keras"
        unfinished.write_text("half")
        raise OSError("disk full")

    broken: Any = types.SimpleNamespace(save=fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(broken, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    save_model(linear(), path)
    assert keras.saving.load_model(path).count_params() == linear().count_params()


# Logical devices can be made before TensorFlow begins to work only: in a new process.
DEVICES = """
import json, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
parts = [tf.config.LogicalDeviceConfiguration()] * {devices}
tf.config.set_logical_device_configuration(cpu, parts)
import keras
from keras_traps.datasets import load
from keras_traps.models import training
from tests.models.test_training import linear, regularized
"""

LEARN = """
name, path = sys.argv[1:]
strategy = training.make_strategy(name)
with strategy.scope():
    model = linear()
    noise = keras.layers.GaussianNoise(0.05, seed=1)
history = training.train(
    model, load("digits"), epochs=4, learning_rate=0.02, falling=True, augment=noise,
    verbose=2, strategy=strategy,
)
print("RESULT", strategy.num_replicas_in_sync, history.history["val_accuracy"][-1])
if training.is_chief(strategy):
    training.save_model(model, training.Path(path))
"""

# Of the model that `regularized` makes, on the first device and on both.
REPLICAS = """
data = load("digits", "test").take(64)
settings = {"epochs": 2, "batch_size": 64, "seed": 0, "verbose": 0}
for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        model = regularized()
    history = training.fit_on_workers(model, data, None, strategy, **settings)
    kernel = model.get_weights()[0].tolist()
    print(json.dumps({"loss": history.history["loss"], "kernel": kernel}))
"""


Process = subprocess.Popen[str]


def start(
    script: str, *arguments: str, devices: int = 2, **environment: str
) -> Process:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    told = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONFAULTHANDLER": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", DEVICES.format(devices=devices) + script, *arguments],
        env={**os.environ, **told, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outputs_of(start_all: Callable[[], list[Process]]) -> list[str]:
    """Starts processes that work together, and returns what they print.

    Between several devices TensorFlow's runtime has races that end a process by a
    signal, though seldom: then all are started once more, and a warning tells the
    stack. A wrong result or an exception fails at once.
    """
    outputs, failed = finish(start_all())
    if failed and failed[0].returncode < 0:
        with warnings.catch_warnings(action="default"):
            warnings.warn(f"started once more: {failed[0]}", RuntimeWarning, 2)
        outputs, failed = finish(start_all())
    assert not failed
    return outputs


class Failure(NamedTuple):
    """How a process failed: by a signal, where the code is negative."""

    returncode: int
    errors: str


def finish(processes: list[Process]) -> tuple[list[str], list[Failure]]:
    """Returns what processes print, and those that failed, the first before others."""
    failed = []

    def wait(process: Process) -> str:
        output, errors = process.communicate(timeout=240)
        if process.returncode != 0:
            failed.append(Failure(process.returncode, errors))
            # The others would wait for it.
            for other in processes:
                other.kill()
        return output

    try:
        with ThreadPoolExecutor() as pool:
            return [*pool.map(wait, processes)], failed
    finally:
        for process in processes:
            process.kill()


def test_processes_that_a_signal_ended_are_started_once_more() -> None:
    def start_all() -> list[Process]:
        return [
            subprocess.Popen(
                [sys.executable, "-c", script],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for script in ("print('other')", f"import os; {next(endings)}")
        ]

    endings = iter(["os.abort()", "print('done')"])
    with pytest.warns(RuntimeWarning, match="once more.*returncode=-6"):
        assert outputs_of(start_all) == ["other\n", "done\n"]
    endings = iter(["1 / 0", "print('done')"])
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        outputs_of(start_all)


def result(output: str) -> tuple[int, float]:
    (line,) = [line for line in output.splitlines() if line.startswith("RESULT")]
    _, replicas, accuracy = line.split()
    return int(replicas), float(accuracy)


@pytest.mark.slow
def test_a_model_learns_on_two_devices_at_once(tmp_path: Path) -> None:
    path = tmp_path / "digits.keras"
    (output,) = outputs_of(lambda: [start(LEARN, "mirrored", str(path))])
    replicas, accuracy = result(output)
    assert replicas == 2
    assert accuracy > 0.8
    assert keras.saving.load_model(path).output_shape == (None, 10)


@pytest.mark.slow
def test_a_model_learns_on_two_machines_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"worker{index}.keras" for index in range(2)]

    def start_all() -> list[Process]:
        with socket.socket() as one, socket.socket() as other:
            for bound in (one, other):
                bound.bind(("localhost", 0))
            workers = [f"localhost:{bound.getsockname()[1]}" for bound in (one, other)]
        processes = []
        for index, path in enumerate(paths):
            task = {"type": "worker", "index": index}
            told = json.dumps({"cluster": {"worker": workers}, "task": task})
            made = start(LEARN, "multiworker", str(path), devices=1, TF_CONFIG=told)
            processes.append(made)
        return processes

    outputs = outputs_of(start_all)
    assert [result(output)[0] for output in outputs] == [2, 2]
    assert all(result(output)[1] > 0.8 for output in outputs)
    # The chief alone saves, and tells of every epoch.
    assert [path.exists() for path in paths] == [True, False]
    assert [output.count("Epoch ") for output in outputs] == [4, 0]


@pytest.mark.slow
def test_two_devices_count_a_regularizer_once() -> None:
    (output,) = outputs_of(lambda: [start(REPLICAS)])
    one, two = map(json.loads, output.splitlines())
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-5)
    np.testing.assert_allclose(two["kernel"], one["kernel"], atol=1e-6)


@pytest.mark.parametrize(
    "policy", ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_a_step_is_that_of_fit(policy: str) -> None:
    data = load("digits", "test").take(64)
    trained = []
    keras.config.set_dtype_policy(policy)
    try:
        for strategy in (None, tf.distribute.MirroredStrategy(["CPU:0"])):
            with strategy.scope() if strategy else contextlib.nullcontext():
                model = regularized()
            settings: dict[str, Any] = {"epochs": 3, "batch_size": 64, "verbose": 0}
            if strategy is None:
                history = model.fit(data.images, data.labels, **settings)
            else:
                history = fit_on_workers(
                    model, data, None, strategy, **settings, seed=0
                )
            trained.append((model.get_weights()[0], history.history["loss"]))
    finally:
        keras.config.set_dtype_policy("float32")
    (expected, losses), (found, told) = trained
    precision = 1e-5 if policy == "float32" else 1e-2
    np.testing.assert_allclose(told, losses, rtol=precision)
    np.testing.assert_allclose(found, expected, rtol=precision, atol=precision)
    # All images in one step: each makes the loss smaller.
    assert losses[-1] < losses[0] - 0.1


def regularized() -> keras.Model:
    keras.utils.set_random_seed(0)
    dense = layers.Dense(10, kernel_regularizer=keras.regularizers.L2(0.1))
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), dense])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    return model


@pytest.mark.parametrize("jobs", [("chief", "worker"), ("worker", "evaluator")])
def test_one_task_of_a_cluster_is_its_chief(jobs: tuple[str, str]) -> None:
    cluster = tf.train.ClusterSpec({job: [f"{job}0:1", f"{job}1:1"] for job in jobs})
    chiefs = []
    for task in ((job, number) for job in jobs for number in range(2)):
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            cluster, "", *task
        )
        # A strategy with this resolver would wait for the other machines.
        strategy: Any = types.SimpleNamespace(cluster_resolver=resolver)
        if is_chief(strategy):
            chiefs.append(task)
    # Of the chiefs all, where a cluster has a job of that name.
    assert chiefs == [(jobs[0], number) for number in range(1 + (jobs[0] == "chief"))]
    assert is_chief(make_strategy("none"))


def test_an_unknown_strategy_is_refused() -> None:
    name: Any = "tpu"
    with pytest.raises(ValueError, match=r"`name`.*multiworker.*Received: name='tpu'"):
        make_strategy(name)
