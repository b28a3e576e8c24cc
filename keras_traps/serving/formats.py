"""The formats of portable files: how to write each, and how to ask it."""

import contextlib
import dataclasses
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import keras
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps._environment import environment

Format = Literal["onnx", "openvino", "tflite"]
"""`"onnx"` and `"openvino"` need the packages of the extra of that name; `"tflite"`
needs TensorFlow alone."""


@dataclasses.dataclass(frozen=True)
class FileFormat:
    """What `export_portable` has to know of a format.

    Args:
        suffix: How the file's name ends.
        packages: What has to be installed beside TensorFlow.
        convert: Writes a model to a path.
        run: Returns what the file at a path answers, float32, for
            `(batch, height, width, channels)`, float32.
    """

    suffix: str
    packages: tuple[str, ...]
    convert: Callable[[keras.Model, Path], None]
    run: Callable[[Path, FloatArray], FloatArray]

    def require(self) -> None:
        """Imports the packages.

        Raises:
            ImportError: If one is missing.
        """
        try:
            with _unreported():
                for package in self.packages:
                    importlib.import_module(package)
        except ImportError as error:
            name = next(name for name, own in FORMATS.items() if own is self)
            raise ImportError(
                f"A file {self.suffix} needs {', '.join(self.packages)}: install "
                f'keras-traps with the extra "{name}". ({error})'
            ) from error


def _unreported() -> contextlib.AbstractContextManager[None]:
    """Keeps OpenVINO from reporting its use to its maker.

    Unless it finds itself in continuous integration it does so unasked when it is
    imported and when it converts, and leaves an identifier in the home folder.
    """
    return environment("CI", "true")


def _to_onnx(model: keras.Model, path: Path) -> None:
    with warnings.catch_warnings():
        # Keras looks for np.object, of which NumPy warns.
        warnings.simplefilter("ignore", FutureWarning)
        model.export(str(path), format="onnx", verbose=False)


def _run_onnx(path: Path, images: FloatArray) -> FloatArray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return session.run(None, {given.name: images})[0]


def _to_openvino(model: keras.Model, path: Path) -> None:
    with _unreported():
        model.export(str(path), format="openvino", verbose=False)


def _run_openvino(path: Path, images: FloatArray) -> FloatArray:
    import openvino

    # Left to itself it computes in bfloat16 where the CPU can.
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    (answer,) = openvino.Core().compile_model(path, "CPU", hint)(images).values()
    return answer


def _to_tflite(model: keras.Model, path: Path) -> None:
    # Keras would let in TensorFlow's own operations, which few runtimes have.
    builtins = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    model.export(str(path), format="litert", verbose=False, target_spec=builtins)


def _run_tflite(path: Path, images: FloatArray) -> FloatArray:
    with warnings.catch_warnings():
        # It is told that it will go; TensorFlow 2.21 has it.
        warnings.simplefilter("ignore", UserWarning)
        interpreter = tf.lite.Interpreter(model_path=str(path))
    ((name, keys),) = interpreter.get_signature_list().items()
    answers = interpreter.get_signature_runner(name)(**{keys["inputs"][0]: images})
    return answers[keys["outputs"][0]]


FORMATS: dict[Format, FileFormat] = {
    "onnx": FileFormat(
        ".onnx", ("tf2onnx", "onnx", "onnxruntime"), _to_onnx, _run_onnx
    ),
    # The weights lie beside it, in a file that ends in .bin.
    "openvino": FileFormat(".xml", ("openvino",), _to_openvino, _run_openvino),
    "tflite": FileFormat(".tflite", (), _to_tflite, _run_tflite),
}
"""By name, every format."""
