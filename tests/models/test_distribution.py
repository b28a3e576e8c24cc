import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import pytest

from keras_traps.models.distribution import is_chief, make_strategy

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


FEW = ("--dataset=digits", "--epochs=4", "--learning_rate=0.005")


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


def test_no_strategy_is_none() -> None:
    assert make_strategy("none") is None
    assert is_chief(None)


def test_an_unknown_strategy_is_refused() -> None:
    name: Any = "tpu"
    with pytest.raises(ValueError, match=r"`name`.*multiworker.*Received: name='tpu'"):
        make_strategy(name)
