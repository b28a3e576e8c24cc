"""ONNX, OpenVINO and TFLite files of a model, checked before they appear."""

import contextlib
import dataclasses
import importlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import Bounds, FloatArray, check_images
from keras_traps._pixels import from_unit
from keras_traps.models.forms import find_bounds
from keras_traps.models.inference import predict

Format = Literal["onnx", "openvino", "tflite"]
"""`"onnx"` and `"openvino"` need the packages of the extra of that name; `"tflite"`
needs TensorFlow alone."""

PORTABLE_TOLERANCE = 1e-4
"""How far an output may lie from the live model's."""


class PortableError(RuntimeError):
    """A model cannot be written in a format, or answers otherwise in it."""


@dataclasses.dataclass(frozen=True)
class FileFormat:
    """What `export_portable` has to know of a format."""

    suffix: str
    packages: tuple[str, ...]  # beside TensorFlow
    convert: Callable[[keras.Model, Path], None]
    run: Callable[[Path, FloatArray], FloatArray]  # float32 images to float32 answers


def export_portable(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    bounds: Bounds | None = None,
    examples: npt.ArrayLike | None = None,
) -> float:
    """Writes the output of a model as an ONNX, OpenVINO or TFLite file.

    The file answers what `model` answers and nothing else; for the forensic analysis
    use `export`. It is written only if it agrees with the live model. OpenVINO is asked
    in float32: where the CPU has bfloat16 it uses that unless it is compiled with
    `{"INFERENCE_PRECISION_HINT": "f32"}`, and its answers are then coarser.

    Args:
        model: A built model with one input of images `(batch, ...)`, pixels in
            `bounds`, and one output.
        path: The file; its ending, `.onnx`, `.tflite` or for OpenVINO `.xml`, says
            the format. OpenVINO's weights go to a `.bin` beside it. Files there are
            replaced, and never is the one there with another's weights.
        bounds: The least and the largest value of a pixel, as the model takes it and
            the file does. Defaults to `None`: those of a trapped model, else `(0, 1)`.
        examples: A few real images for the check, `(batch, ...)`, pixels in `bounds`.
            Noise is tried in any case. Defaults to `None`.

    Returns:
        The largest difference from the live model.

    Raises:
        ImportError: If a package that the format needs is missing.
        ValueError: If the ending is another, or `bounds` do not fit the model.
        PortableError: If the model cannot be converted, or the file's answers differ
            from the live model's by more than 1e-4. No file is written.
        OSError: If it cannot be written.
    """
    place = Path(path).expanduser()
    named = {form.suffix: (name, form) for name, form in FORMATS.items()}
    if place.suffix not in named:
        raise ValueError(
            "Invalid value for argument `path`. Expected a file name that ends in one "
            f"of {', '.join(named)}. Received: {place.name!r}"
        )
    name, form = named[place.suffix]
    bounds = find_bounds(model, bounds)
    try:
        with _unreported():
            for package in form.packages:
                importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"A file {form.suffix} needs {', '.join(form.packages)}: install "
            f'keras-traps with the extra "{name}". ({error})'
        ) from error
    shape = model.input_shape[1:]
    noise = np.random.default_rng(0).random((16, *shape), np.float32)
    images = from_unit(noise, bounds)
    if examples is not None:
        examples = check_images(examples, shape, bounds=bounds, name="examples")
        images = np.concatenate([images, examples])
    expected = predict(model, images)
    model = _of_float32(model)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.stem}-") as new:
        unchecked = Path(new, place.name)
        try:
            form.convert(model, unchecked)
        except OSError:
            raise
        except Exception as error:  # Each converter raises its own.
            raise PortableError(
                f"{model.name!r} cannot be converted to {form.suffix}: {error}"
            ) from error
        difference = float(np.abs(form.run(unchecked, images) - expected).max())
        # Written so that a NaN is refused too.
        if not difference <= PORTABLE_TOLERANCE:
            raise PortableError(
                f"The {place.suffix} file of {model.name!r} does not answer as the "
                f"live model: the largest difference is {difference:.3g}, "
                f"{PORTABLE_TOLERANCE:g} is tolerated."
            )
        weights = [file for file in Path(new).iterdir() if file != unchecked]
        if weights:
            # An old graph would be read with new weights.
            place.unlink(missing_ok=True)
        for file in (*weights, unchecked):
            file.replace(place.with_name(file.name))
    return difference


def _of_float32(model: keras.Model) -> keras.Model:
    """Returns a model that takes float32 images, as every file does."""
    (given,) = model.inputs
    if given.dtype == "float32":
        return model
    image = keras.Input(given.shape[1:], dtype="float32", name=given.name)
    return keras.Model(image, model(image), name=model.name)


@contextlib.contextmanager
def _unreported() -> Iterator[None]:
    """Keeps OpenVINO, imported or converting, from reporting its use to its maker."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        del os.environ["CI"]
        if before is not None:
            os.environ["CI"] = before


def _to_onnx(model: keras.Model, path: Path) -> None:
    with warnings.catch_warnings():
        # Keras looks for np.object, of which NumPy warns.
        warnings.simplefilter("ignore", FutureWarning)
        model.export(str(path), format="onnx", verbose=False)


def _run_onnx(path: Path, images: FloatArray) -> FloatArray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    (answer,) = session.run(None, {given.name: images})
    return answer


def _to_openvino(model: keras.Model, path: Path) -> None:
    import openvino

    (given,) = model.inputs
    signature = [tf.TensorSpec(given.shape, given.dtype, name=given.name)]

    @tf.function(input_signature=signature, autograph=False)
    def answer(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=False)

    # Of the outermost function, what is computed and not returned becomes an output
    # too: such is not in this one.
    @tf.function(input_signature=signature, autograph=False)
    def only_answer(images: tf.Tensor) -> tf.Tensor:
        return answer(images)

    with _unreported():
        converted = openvino.convert_model(only_answer.get_concrete_function())
        openvino.serialize(converted, str(path))


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
