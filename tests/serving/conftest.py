"""A small trapped model and one export of it with every signature."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps import ForensicAnalyzer, TrapSettings, datasets, inject, serving
from keras_traps.models import digits_cnn

Outputs = dict[str, npt.NDArray[Any]]

SETTINGS = TrapSettings(
    output="logits",
    a0=-0.0006,
    a1=-2.1,
    a2=0.6,
    step_weights=(19.4, 1.0),
    seed=20_261_122,
)
CLASS_NAMES = (
    "zero",
    "one",
    "two",
    "drei",
    "vier",
    "fünf",
    "sechs",
    "七",
    "eight",
    "nine",
)


@dataclasses.dataclass(frozen=True)
class Trapped:
    """An untrained classifier with traps, and its analyzer."""

    model: keras.Model
    analyzer: ForensicAnalyzer
    images: npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def trapped() -> Trapped:
    keras.utils.set_random_seed(0)
    model = inject(digits_cnn(), SETTINGS)
    images = datasets.load("digits").images
    analyzer = ForensicAnalyzer(model).fit(images, fpr=0.05)
    return Trapped(model, analyzer, images)


@pytest.fixture(scope="session")
def exported(
    trapped: Trapped, tmp_path_factory: pytest.TempPathFactory
) -> serving.Exported:
    return serving.export(
        trapped.model,
        tmp_path_factory.mktemp("saved_models") / "digits",
        analyzer=trapped.analyzer,
        signatures=(
            "serving_default",
            "analyze",
            "integrated",
            "serving_uint8",
            "image_bytes",
        ),
        class_names=CLASS_NAMES,
        warmup_batch_sizes=(1, 3),
        metrics={"accuracy": 0.97},
        data_sha256="ab" * 32,
        examples=trapped.images[:4],
        verbose=False,
    )


@pytest.fixture(scope="session")
def target() -> keras.Model:
    """The classifier M of a lured model."""
    keras.utils.set_random_seed(1)
    return digits_cnn()


@pytest.fixture(scope="session")
def lure() -> keras.Model:
    """The network P before it, untrained: the two agree on some images only."""
    keras.utils.set_random_seed(2)
    images = keras.Input((8, 8, 1))
    moved = keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(images)
    return keras.Model(images, moved)


@pytest.fixture
def no_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the fresh process out, for tests of other things."""

    def skip(*_: Any) -> serving.SelfTest:
        return serving.SelfTest(live={"x": 0.0}, alone={"x": 0.0}, num_images=0)

    monkeypatch.setattr("keras_traps.serving.exporter.self_test", skip)


def load(path: Path) -> Mapping[str, Callable[..., Outputs]]:
    """Loads a version; its signatures take and return arrays."""
    loaded = tf.saved_model.load(str(path))

    def numpy(function: Any) -> Callable[..., Outputs]:
        def call(**inputs: Any) -> Outputs:
            # Keeps what was loaded alive.
            answer = loaded.signatures[function](
                **{name: tf.constant(value) for name, value in inputs.items()}
            )
            return {name: value.numpy() for name, value in answer.items()}

        return call

    return {name: numpy(name) for name in loaded.signatures}


def operations(path: Path) -> list[Any]:
    """Every node of a version's graph and of its functions."""
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((path / "saved_model.pb").read_bytes())
    (meta,) = proto.meta_graphs
    nodes = list(meta.graph_def.node)
    for function in meta.graph_def.library.function:
        nodes.extend(function.node_def)
    return nodes
