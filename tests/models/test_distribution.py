import contextlib
import json
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

from keras_traps.datasets import load
from keras_traps.models.distribution import fit_on_workers, is_chief, make_strategy

ROOT = Path(__file__).parents[2]

# Logical devices can be made before TensorFlow begins to work only: in a new process.
SCRIPT = """
import json, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
parts = [tf.config.LogicalDeviceConfiguration()] * {devices}
tf.config.set_logical_device_configuration(cpu, parts)
from absl import flags
from keras_traps import datasets
from keras_traps.models import distribution
from recipes import train_classifier
made = distribution.make_strategy
def spy(name):
    strategy = made(name)
    print("REPLICAS", strategy.num_replicas_in_sync)
    return strategy
train_classifier.make_strategy = spy
values = train_classifier.define_flags(flags.FlagValues())
train_classifier.main(values(["train_classifier", *sys.argv[1:]]), values)
"""

# Of the model that `regularized` makes, on the first device and on both.
REPLICAS = """
import json
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
parts = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, parts)
from keras_traps.datasets import load
from keras_traps.models.distribution import fit_on_workers
from tests.models.test_distribution import regularized
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
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
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


FEW = (
    "--dataset=digits",
    "--epochs=4",
    "--learning_rate=0.005",
    "--noise=0.05",
    "--falling",
)


def accuracy(output: str) -> float:
    (line,) = [line for line in output.splitlines() if line.startswith("Test accuracy")]
    return float(line.split()[2].rstrip("%"))


def test_a_model_learns_on_two_devices_at_once(tmp_path: Path) -> None:
    path = tmp_path / "digits.keras"
    process = start(*FEW, "--strategy=mirrored", f"--output={path}")

    output = finish(process)

    assert "REPLICAS 2" in output
    assert accuracy(output) > 80
    assert keras.saving.load_model(path).output_shape == (None, 10)


def test_a_model_learns_on_two_machines_at_once(tmp_path: Path) -> None:
    workers = [f"localhost:{port}" for port in free_ports(2)]
    paths = [tmp_path / f"worker{index}.keras" for index in range(2)]
    processes = [
        start(
            *FEW,
            "--strategy=multiworker",
            f"--output={paths[index]}",
            devices=1,
            TF_CONFIG=json.dumps(
                {
                    "cluster": {"worker": workers},
                    "task": {"type": "worker", "index": index},
                }
            ),
        )
        for index in range(2)
    ]

    outputs = [finish(process) for process in processes]

    assert ["REPLICAS 2" in output for output in outputs] == [True, True]
    assert all(accuracy(output) > 80 for output in outputs)
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


def test_two_devices_count_a_regularizer_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", REPLICAS],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
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
