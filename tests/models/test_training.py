import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_traps.datasets import Dataset, load
from keras_traps.models.training import (
    fit_on_workers,
    is_chief,
    make_strategy,
    save_model,
    train,
)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("digits", "test")


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
    history = train(model, data, epochs=4, optimizer=optimizer, **settings).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["accuracy"][-1] > 0.6
    made = model.optimizer
    assert float(made.learning_rate) == pytest.approx(rate)
    assert made.weight_decay == 1e-6
    assert model.jit_compile is False
    if optimizer == "sgd":
        assert isinstance(made, keras.optimizers.SGD)
        assert (made.momentum, made.nesterov) == (0.9, True)


def test_the_loss_is_cross_entropy_from_logits(data: Dataset) -> None:
    model = linear()
    logits = np.asarray(model(data.images))
    exponents = np.exp(logits)
    picked = exponents[np.arange(len(data)), data.labels]
    expected = -np.log(picked / exponents.sum(axis=1)).mean()
    # A vanishing step leaves the model as it is; dropout is off for validation.
    history = train(
        model, data, epochs=1, learning_rate=1e-12, validation_split=0.998
    ).history
    assert history["val_loss"][0] == pytest.approx(expected, rel=0.02)


def test_the_same_seeds_give_the_same_training(data: Dataset) -> None:
    few = data.take(100)
    runs = [
        train(
            linear(),
            few,
            epochs=1,
            seed=seed,
            augment=layers.GaussianNoise(0.5, seed=noise),
        ).history
        for seed, noise in ((5, 0), (5, 0), (6, 0), (5, 1))
    ]
    first, again, *others = (run["loss"] + run["val_loss"] for run in runs)
    assert first == pytest.approx(again)
    assert all(first != pytest.approx(other) for other in others)


def test_validation_images_are_drawn_from_all_classes() -> None:
    train_data = load("digits")
    order = np.argsort(train_data.labels, kind="stable")
    ordered = Dataset(
        "digits",
        "train",
        train_data.pixels[order],
        train_data.labels[order],
        10,
        train_data.class_names,
        "sorted",
    )
    history = train(linear(), ordered, epochs=8, learning_rate=0.01).history
    # Were they the last ones, nines alone, none would have been seen in training.
    assert history["val_accuracy"][-1] > 0.8


class Blindfold(layers.Layer):
    """Leaves nothing of the images, in training alone."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return keras.ops.zeros_like(inputs) if training else inputs


def test_what_augments_is_seen_by_training_alone(data: Dataset) -> None:
    model = linear()
    kernel = model.get_weights()[0]
    with_it = train(model, data, epochs=3, augment=Blindfold()).history
    # Black images move no kernel, and validation sees the images as they are.
    np.testing.assert_array_equal(model.get_weights()[0], kernel)
    assert with_it["loss"][-1] == pytest.approx(np.log(10), rel=0.05)
    images = data.take(len(data), seed=0).images[-int(0.1 * len(data)) :]
    labels = data.take(len(data), seed=0).labels[-int(0.1 * len(data)) :]
    right = np.asarray(model(images)).argmax(axis=1) == labels
    assert with_it["val_accuracy"][-1] == pytest.approx(right.mean(), abs=0.02)


@pytest.mark.parametrize(
    ("augment", "split"), [(None, 0.0), (layers.GaussianNoise(0.1), 0.1)]
)
def test_a_falling_rate_falls_over_all_steps(
    data: Dataset, split: float, augment: keras.Layer | None
) -> None:
    model = linear()
    train(
        model,
        data,
        epochs=2,
        batch_size=50,
        learning_rate=0.05,
        falling=True,
        augment=augment,
        validation_split=split,
    )
    steps = 2 * math.ceil(math.floor((1 - split) * len(data)) / 50)
    assert int(model.optimizer.iterations) == steps
    rate = keras.optimizers.serialize(model.optimizer)["config"]["learning_rate"]
    assert rate["class_name"] == "CosineDecay"
    assert rate["config"]["initial_learning_rate"] == 0.05
    assert rate["config"]["decay_steps"] == steps
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-6)


def test_a_model_is_left_compiled_and_without_what_augments(data: Dataset) -> None:
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)], name="same"
    )
    # What augments may have the model's name.
    augment = keras.Sequential([layers.GaussianNoise(0.1)], name="same")
    parts = list(model.layers)
    history = train(model, data.take(50), epochs=1, augment=augment, validation_split=0)
    assert set(history.history) == {"loss", "accuracy"}
    assert model.layers == parts
    few = data.take(20)
    assert np.isfinite(model.evaluate(few.images, few.labels, verbose=0)).all()
    model.fit(few.images, few.labels, epochs=1, verbose=0)


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
    "setting",
    [
        {"epochs": 0},
        {"epochs": 2.0},
        {"epochs": math.nan},
        {"batch_size": 0},
        {"batch_size": math.inf},
        {"seed": 1.5},
        {"falling": None},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"optimizer": "lion"},
        {"weight_decay": -1e-6},
        {"weight_decay": math.inf},
        {"validation_split": 1.0},
        {"validation_split": -0.1},
    ],
)
def test_a_setting_out_of_range_is_named(
    data: Dataset, setting: dict[str, Any]
) -> None:
    (name,) = setting
    with pytest.raises(ValueError, match=f"Invalid value for argument `{name}`"):
        train(linear(), data, **({"epochs": 1} | setting))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"side": 9}, r"a model of images \(8, 8, 1\)"),
        ({"classes": 11}, "a model of 10 classes"),
        ({"activation": "softmax"}, "returns logits"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    data: Dataset, model: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        train(linear(**model), data, epochs=1)


def test_a_batch_that_no_machine_can_fill_is_refused(data: Dataset) -> None:
    with pytest.raises(ValueError, match=r"`batch_size`.*20"):
        fit_on_workers(
            linear(),
            data.take(20),
            None,
            None,
            epochs=1,
            batch_size=21,
            seed=0,
            verbose=0,
        )


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


PATHS = os.pathsep.join(
    [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
)

# Logical devices can be made before TensorFlow begins to work only: in a new process.
SCRIPT = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
parts = [tf.config.LogicalDeviceConfiguration()] * {devices}
tf.config.set_logical_device_configuration(cpu, parts)
import keras
from keras_traps.datasets import load
from keras_traps.models import training
from tests.models.test_training import linear
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
import json
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
parts = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, parts)
from keras_traps.datasets import load
from keras_traps.models.training import fit_on_workers
from tests.models.test_training import regularized
data = load("digits", "test").take(64)
settings = {"epochs": 2, "batch_size": 64, "seed": 0, "verbose": 0}
for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        model = regularized()
    history = fit_on_workers(model, data, None, strategy, **settings)
    kernel = model.get_weights()[0].tolist()
    print(json.dumps({"loss": history.history["loss"], "kernel": kernel}))
"""


def start(
    *arguments: str, devices: int = 2, **environment: str
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(devices=devices), *arguments],
        env={**os.environ, "PYTHONPATH": PATHS, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-2000:]
    return output


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def result(output: str) -> tuple[int, float]:
    (line,) = [line for line in output.splitlines() if line.startswith("RESULT")]
    _, replicas, accuracy = line.split()
    return int(replicas), float(accuracy)


@pytest.mark.slow
def test_a_model_learns_on_two_devices_at_once(tmp_path: Path) -> None:
    path = tmp_path / "digits.keras"
    replicas, accuracy = result(finish(start("mirrored", str(path))))
    assert replicas == 2
    assert accuracy > 0.8
    assert keras.saving.load_model(path).output_shape == (None, 10)


@pytest.mark.slow
def test_a_model_learns_on_two_machines_at_once(tmp_path: Path) -> None:
    workers = [f"localhost:{port}" for port in free_ports(2)]
    paths = [tmp_path / f"worker{index}.keras" for index in range(2)]
    processes = []
    for index, path in enumerate(paths):
        task = {"type": "worker", "index": index}
        told = json.dumps({"cluster": {"worker": workers}, "task": task})
        made = start("multiworker", str(path), devices=1, TF_CONFIG=told)
        processes.append(made)
    outputs = [finish(process) for process in processes]
    assert [result(output)[0] for output in outputs] == [2, 2]
    assert all(result(output)[1] > 0.8 for output in outputs)
    # The chief alone saves, and tells of every epoch.
    assert [path.exists() for path in paths] == [True, False]
    assert [output.count("Epoch ") for output in outputs] == [4, 0]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
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
    regularizer = keras.regularizers.L2(0.1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(10, kernel_regularizer=regularizer),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    return model


@pytest.mark.slow
def test_two_devices_count_a_regularizer_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", REPLICAS],
        env={**os.environ, "PYTHONPATH": PATHS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    one, two = (json.loads(line) for line in finish(process).splitlines())
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-5)
    np.testing.assert_allclose(two["kernel"], one["kernel"], atol=1e-6)


@pytest.mark.parametrize(
    ("jobs", "chief"),
    [
        ({"chief": 1, "worker": 2}, ("chief", 0)),
        ({"worker": 2}, ("worker", 0)),
        ({"worker": 2, "evaluator": 1}, ("worker", 0)),
    ],
)
def test_one_task_of_a_cluster_is_its_chief(
    jobs: dict[str, int], chief: tuple[str, int]
) -> None:
    cluster = tf.train.ClusterSpec(
        {
            job: [f"{job}{task}:1" for task in range(count)]
            for job, count in jobs.items()
        }
    )
    chiefs = []
    for task in ((job, number) for job in jobs for number in range(jobs[job])):
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            cluster, "", *task
        )
        # A strategy with this resolver would wait for the other machines.
        strategy: Any = types.SimpleNamespace(cluster_resolver=resolver)
        if is_chief(strategy):
            chiefs.append(task)
    assert chiefs == [chief]


def test_a_machine_alone_is_its_chief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    strategy: Any = types.SimpleNamespace(cluster_resolver=resolver)
    assert is_chief(strategy)
    assert is_chief(tf.distribute.MirroredStrategy(["CPU:0"]))


def test_no_strategy_is_none() -> None:
    assert make_strategy("none") is None
    assert is_chief(None)


def test_an_unknown_strategy_is_refused() -> None:
    name: Any = "tpu"
    with pytest.raises(ValueError, match=r"`name`.*multiworker.*Received: name='tpu'"):
        make_strategy(name)
