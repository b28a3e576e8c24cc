"""The exported model in the very loader of TensorFlow Serving.

A program in C++ is compiled against the headers and libraries of the TensorFlow wheel.
It calls `tensorflow::LoadSavedModel`, and knows nothing of Python or of this package.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.python.framework import op_def_registry

from keras_traps.serving import Exported
from tests.serving.conftest import Trapped, load, operations

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
            compiler,
            *tf.sysconfig.get_compile_flags(),
            "-O0",
            "-w",
            str(_SOURCE),
            "-o",
            str(program),
            # Kernels register themselves: nothing refers to them by name.
            "-Wl,--no-as-needed",
            f"-L{libraries}",
            "-l:libtensorflow_cc.so.2",
            "-l:libtensorflow_framework.so.2",
            f"-Wl,-rpath,{libraries}",
        ],
        check=True,
    )
    return program


def test_the_cpp_loader_answers_bit_for_bit_as_python(
    loader: Path, exported: Exported, trapped: Trapped, tmp_path: Path
) -> None:
    clean = trapped.images[:5]
    noise = np.random.default_rng(1).random(clean.shape, np.float32)
    images = np.concatenate([clean, noise, np.full_like(clean[:1], np.nan)])
    levels = np.round(clean * 255).astype(np.uint8)
    files = [tf.io.encode_png(image).numpy() for image in levels]
    inputs = {
        "serving_default": ("image", images),
        "analyze": ("image", images),
        "integrated": ("image", images),
        "serving_uint8": ("image", levels),
        "image_bytes": ("image_bytes", np.array(files, object)),
    }
    assert set(inputs) == set(exported.signatures)
    for name, (_, value) in inputs.items():
        proto = tf.make_tensor_proto(value)
        (tmp_path / f"{name}.input").write_bytes(proto.SerializeToString())

    subprocess.run([loader, exported.path, tmp_path], check=True)

    signatures = load(exported.path)
    for name, (key, value) in inputs.items():
        expected = signatures[name](**{key: value})
        files_of_it = {path.name for path in tmp_path.glob(f"{name}.*.output")}
        assert files_of_it == {f"{name}.{output}.output" for output in expected}
        for output, array in expected.items():
            answer = tensor_pb2.TensorProto()
            answer.ParseFromString((tmp_path / f"{name}.{output}.output").read_bytes())
            got = tf.make_ndarray(answer)
            assert got.dtype == array.dtype, (name, output)
            if array.dtype == object:
                assert got.tolist() == array.tolist(), (name, output)
            else:
                assert got.tobytes() == array.tobytes(), (name, output)


def test_the_cpp_loader_refuses_half_a_model(
    loader: Path, exported: Exported, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(exported.path, half)
    graph = half / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
    done = subprocess.run(
        [loader, half, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr


def test_the_graph_holds_stock_operations_only(exported: Exported) -> None:
    nodes = operations(exported.path)
    names = {node.op for node in nodes}
    functions = {name for name in names if name.startswith("__inference_")}
    assert len(names - functions) > 10
    for name in names - functions:
        assert op_def_registry.get(name) is not None, name
    assert not {name for name in names if "PyFunc" in name or "Xla" in name}
    assert not any(node.attr["_XlaMustCompile"].b for node in nodes)
