"""ONNX and TFLite files of a model, checked against it before they appear."""

import os
import warnings
from pathlib import Path
from typing import Literal, get_args

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._validation import FloatArray, check_images
from keras_traps.models.inference import predict

Format = Literal["onnx", "tflite"]
"""`"onnx"` needs tf2onnx, onnx and onnxruntime; `"tflite"` TensorFlow alone."""

PORTABLE_TOLERANCE = 1e-4
"""How far an output may lie from the live model's."""

_NOISE_IMAGES = 16


class PortableError(RuntimeError):
    """A model cannot be written in a format, or answers otherwise in it."""


def export_portable(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    examples: npt.ArrayLike | None = None,
) -> float:
    """Writes the output of a model as an ONNX or TFLite file.

    The file answers what `model` answers and nothing else; for the forensic analysis
    use `export`. It is written only if it agrees with the live model.

    Args:
        model: A built model with one input of images, pixels in [0, 1], and one
            output.
        path: The file; its ending, `.onnx` or `.tflite`, says the format. A file
            there is replaced in one step.
        examples: A few real images for the check, `(batch, height, width, channels)`.
            Noise is tried in any case. Defaults to `None`.

    Returns:
        The largest difference from the live model.

    Raises:
        ImportError: If a package that the format needs is missing.
        ValueError: If the ending is another.
        PortableError: If the model cannot be converted, or the file's answers differ
            from the live model's by more than 1e-4. No file is written.
        OSError: If it cannot be written.
    """
    place = Path(path).expanduser()
    if place.suffix.removeprefix(".") not in get_args(Format):
        raise ValueError(
            "Invalid value for argument `path`. Expected a file name that ends in "
            f".onnx or .tflite. Received: {place.name!r}"
        )
    run = _run_onnx if place.suffix == ".onnx" else _run_tflite
    convert = _to_onnx if place.suffix == ".onnx" else _to_tflite
    shape = model.input_shape[1:]
    images = np.random.default_rng(0).random((_NOISE_IMAGES, *shape), np.float32)
    if examples is not None:
        own = check_images(examples, shape, name="examples")
        images = np.concatenate([images, own])
    expected = predict(model, images)
    place.parent.mkdir(parents=True, exist_ok=True)
    unchecked = place.with_name(f".{place.stem}-{os.getpid()}{place.suffix}")
    try:
        convert(model, unchecked)
        difference = float(np.abs(run(unchecked, images) - expected).max())
        # Written so that a NaN is refused too.
        if not difference <= PORTABLE_TOLERANCE:
            raise PortableError(
                f"The {place.suffix} file of {model.name!r} does not answer as the "
                f"live model: the largest difference is {difference:.3g}, "
                f"{PORTABLE_TOLERANCE:g} is tolerated."
            )
        unchecked.replace(place)
    finally:
        unchecked.unlink(missing_ok=True)
    return difference


def _to_onnx(model: keras.Model, path: Path) -> None:
    try:
        import onnx
        import onnxruntime
        import tf2onnx
    except ImportError as error:
        raise ImportError(
            "An ONNX file needs the packages tf2onnx, onnx and onnxruntime: install "
            f'keras-traps with the extra "onnx". ({error})'
        ) from error
    del onnx, onnxruntime, tf2onnx
    with warnings.catch_warnings():
        # Keras looks for np.object, of which NumPy warns.
        warnings.simplefilter("ignore", FutureWarning)
        _convert(model, path, format="onnx")


def _to_tflite(model: keras.Model, path: Path) -> None:
    # Keras would let in TensorFlow's own operations, which few runtimes have.
    builtins = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    _convert(model, path, format="litert", target_spec=builtins)


def _convert(model: keras.Model, path: Path, **settings: object) -> None:
    try:
        model.export(path, verbose=False, **settings)
    except OSError:
        raise
    except Exception as error:  # Each converter raises its own.
        raise PortableError(
            f"{model.name!r} cannot be converted to {path.suffix}: {error}"
        ) from error


def _run_onnx(path: Path, images: FloatArray) -> FloatArray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return session.run(None, {given.name: images})[0]


def _run_tflite(path: Path, images: FloatArray) -> FloatArray:
    with warnings.catch_warnings():
        # It is told that it will go; TensorFlow 2.21 has it.
        warnings.simplefilter("ignore", UserWarning)
        interpreter = tf.lite.Interpreter(model_path=str(path))
    ((name, keys),) = interpreter.get_signature_list().items()
    answers = interpreter.get_signature_runner(name)(**{keys["inputs"][0]: images})
    return answers[keys["outputs"][0]]
