"""The exported model in the very loader of TensorFlow Serving.

A program in C++ is compiled against the headers and libraries of the TensorFlow wheel.
It calls `tensorflow::LoadSavedModel`, and knows nothing of Python or of this package.
"""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.python.framework import op_def_registry

from keras_traps.serving import Exported, Signature
from tests.serving.conftest import Outputs, Trapped, load, operations

pytestmark = pytest.mark.slow

_SOURCE = Path(__file__).with_name("loader.cc")


@pytest.fixture(scope="session")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program; skips where there is no g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++: the C++ loader cannot be compiled")
    program = tmp_path_factory.mktemp("loader") / "loader"
    libraries = tf.sysconfig.get_lib()
    subprocess.run(
        [
            *(compiler, *tf.sysconfig.get_compile_flags(), "-O0", "-w"),
            *(str(_SOURCE), "-o", str(program)),
            # Kernels register themselves: nothing refers to them by name.
            *("-Wl,--no-as-needed", f"-L{libraries}", f"-Wl,-rpath,{libraries}"),
            *("-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"),
        ],
        check=True,
    )
    return program


def test_the_cpp_loader_answers_bit_for_bit_as_python(
    loader: Path, exported: Exported, trapped: Trapped, tmp_path: Path
) -> None:
    clean = trapped.images[:5]
    noise = np.random.default_rng(1).random((20, *clean.shape[1:]), np.float32)
    images = np.concatenate([clean, noise, np.full_like(clean[:1], np.nan)])
    levels = np.round(images[:5] * 255).astype(np.uint8)
    files = np.array([tf.io.encode_png(image).numpy() for image in levels], object)
    inputs: dict[Signature, tuple[str, np.ndarray]] = {
        "serving_default": ("image", images),
        "analyze": ("image", images),
        "integrated": ("image", images),
        "serving_uint8": ("image", levels),
        "image_bytes": ("image_bytes", files),
    }
    assert set(inputs) == set(exported.signatures)
    answers = answers_of_both(loader, exported, inputs, tmp_path)
    assert 0 < answers["analyze"]["is_adversarial"].mean() < 1
    none = {name: (key, value[:0]) for name, (key, value) in inputs.items()}
    for answer in answers_of_both(loader, exported, none, tmp_path).values():
        assert answer["probabilities"].shape == (0, 10)


def answers_of_both(
    loader: Path,
    exported: Exported,
    inputs: Mapping[Signature, tuple[str, np.ndarray]],
    folder: Path,
) -> dict[Signature, Outputs]:
    """Asks signatures in C++ and in Python, and compares them bit for bit."""
    for name, (_, value) in inputs.items():
        string = tf.string if value.dtype == object else None
        proto = tf.make_tensor_proto(value, dtype=string)
        (folder / f"{name}.input").write_bytes(proto.SerializeToString())

    subprocess.run([loader, exported.path, folder], check=True)

    signatures = load(exported.path)
    answers = {}
    for name, (key, value) in inputs.items():
        given = value if value.dtype != object else tf.constant(value, tf.string)
        expected = answers[name] = signatures[name](**{key: given})
        written = {path.name for path in folder.glob(f"{name}.*.output")}
        assert written == {f"{name}.{output}.output" for output in expected}
        for output, array in expected.items():
            content = (folder / f"{name}.{output}.output").read_bytes()
            got = tf.make_ndarray(tensor_pb2.TensorProto.FromString(content))
            assert (got.dtype, got.shape) == (array.dtype, array.shape), (name, output)
            # Of floats the bytes, for a NaN equals nothing.
            same = got.tolist() == array.tolist() or got.tobytes() == array.tobytes()
            assert same, (name, output)
    return answers


def test_the_graph_holds_stock_operations_only(exported: Exported) -> None:
    nodes = operations(exported.path)
    names = {node.op for node in nodes}
    functions = {name for name in names if name.startswith("__inference_")}
    assert len(names - functions) > 10
    for name in names - functions:
        assert op_def_registry.get(name) is not None, name
    assert not {name for name in names if "PyFunc" in name or "Xla" in name}
    assert not any(node.attr["_XlaMustCompile"].b for node in nodes)
