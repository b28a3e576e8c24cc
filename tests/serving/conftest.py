"""Small models, one export with every signature, and servers."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_traps import ForensicAnalyzer, TrapSettings, datasets, inject, serving
from keras_traps.models import digits_cnn
from keras_traps.ops import Key
from keras_traps.serving import Client
from tests.serving.http_server import Reply, listening

Outputs = dict[str, npt.NDArray[Any]]
Script = Callable[[str], Reply]
Serve = Callable[[Script], str]

SETTINGS = TrapSettings(
    output="logits",
    a0=-0.0006,
    a1=-2.1,
    a2=0.6,
    step_weights=(19.4, 1.0),
    key=Key.from_seed(20_261_122),
)
SHAPE = (8, 8, 1)
CLASS_NAMES = ("zero", "one", "two", "drei", "vier", "fünf", "sechs", "七", "8", "nine")

SPEC = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}}
METADATA: dict[str, Any] = {
    "model_spec": {"name": "m", "signature_name": "", "version": "1"},
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {
                    "inputs": {"x": SPEC},
                    "outputs": {"a": SPEC, "b": {**SPEC, "dtype": "DT_STRING"}},
                }
            }
        }
    },
}


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
    """Every signature of it, with its self-test in a fresh process."""
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
    images = keras.Input(SHAPE)
    return keras.Model(images, keras.layers.Dense(10)(keras.layers.Flatten()(images)))


@pytest.fixture(scope="session")
def lure() -> keras.Model:
    """The network P before it, untrained: the two agree on some images only."""
    keras.utils.set_random_seed(2)
    images = keras.Input(SHAPE)
    moved = keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(images)
    return keras.Model(images, moved)


def load(path: Path) -> Mapping[str, Callable[..., Outputs]]:
    """Loads a version; its signatures take and return arrays."""
    loaded = tf.saved_model.load(str(path))

    def call(name: str, **inputs: Any) -> Outputs:
        # Keeps what was loaded alive.
        answer = loaded.signatures[name](
            **{key: tf.constant(value) for key, value in inputs.items()}
        )
        return {key: value.numpy() for key, value in answer.items()}

    return {name: functools.partial(call, name) for name in loaded.signatures}


def operations(path: Path) -> list[Any]:
    """Every node of a version's graph and of its functions."""
    proto = saved_model_pb2.SavedModel.FromString(
        (path / "saved_model.pb").read_bytes()
    )
    graph = proto.meta_graphs[0].graph_def
    functions = [node for one in graph.library.function for node in one.node_def]
    return [*graph.node, *functions]


class Offline:
    """Runs the signatures of a version without a server; labels are text."""

    def __init__(self, path: Path) -> None:
        self._signatures = load(path)

    def __call__(self, signature: str, value: Any) -> Outputs:
        key = "image_bytes" if signature == "image_bytes" else "image"
        outputs = self._signatures[signature](**{key: value})
        return {
            name: np.char.decode(array.astype("S"), "utf-8")
            if array.dtype == object
            else array
            for name, array in outputs.items()
        }


def agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Says whether two answers are the same, floats to the last bits.

    How many threads a process has decides in which order it adds.
    """
    return one.keys() == other.keys() and all(
        np.allclose(value, other[name], rtol=1e-4, atol=1e-5, equal_nan=True)
        if value.dtype == other[name].dtype == np.float32
        else np.array_equal(value, other[name])
        for name, value in one.items()
    )


def images(count: int) -> npt.NDArray[np.float32]:
    """Draws images for the exported model."""
    return np.random.default_rng(0).random((count, *SHAPE), np.float32)


@pytest.fixture(scope="session")
def offline(exported: serving.Exported) -> Offline:
    return Offline(exported.path)


@pytest.fixture(scope="session")
def addresses(exported: serving.Exported) -> Iterator[tuple[str, str]]:
    """A reference server of the exported model here: over gRPC, over REST."""
    pytest.importorskip("tensorflow_serving.apis")
    from tests.serving import reference_server

    with reference_server.serving("digits", exported.path.parent) as both:
        yield both


@pytest.fixture(scope="session", params=["grpc", "rest"])
def address(addresses: tuple[str, str], request: pytest.FixtureRequest) -> str:
    return addresses[request.param == "rest"]


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, "digits") as client:
        yield client


def answering(outputs: Any, metadata: Any = METADATA) -> Script:
    """A model server that answers every batch with the same."""

    def script(path: str) -> Reply:
        answer = {"outputs": outputs} if path.endswith(":predict") else metadata
        return 200, json.dumps(answer).encode()

    return script


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts HTTP servers that answer as scripts say, and returns their addresses."""
    with contextlib.ExitStack() as stack:
        yield lambda script: stack.enter_context(
            listening(lambda path, _: script(path))
        )
