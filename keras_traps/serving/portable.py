"""ONNX, OpenVINO and TFLite files of a model, checked before they appear."""

import os
import tempfile
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from keras_traps._checks import check_images
from keras_traps.models.inference import predict
from keras_traps.serving.formats import FORMATS, FileFormat

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
    """Writes the output of a model as an ONNX, OpenVINO or TFLite file.

    The file answers what `model` answers and nothing else; for the forensic analysis
    use `export`. It is written only if it agrees with the live model. OpenVINO is asked
    in float32: where the CPU has bfloat16 it uses that unless it is compiled with
    `{"INFERENCE_PRECISION_HINT": "f32"}`, and its answers are then coarser.

    Args:
        model: A built model with one input of images, pixels in [0, 1], and one
            output.
        path: The file; its ending, `.onnx`, `.tflite` or for OpenVINO `.xml`, says
            the format. OpenVINO's weights go to a `.bin` beside it. Files there are
            replaced, and never is the one there with another's weights.
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
    form = _form_of(place)
    form.require()
    shape = model.input_shape[1:]
    images = np.random.default_rng(0).random((_NOISE_IMAGES, *shape), np.float32)
    if examples is not None:
        own = check_images(examples, shape, name="examples")
        images = np.concatenate([images, own])
    expected = predict(model, images)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.stem}-") as new:
        unchecked = Path(new, place.name)
        _convert(model, form, unchecked)
        difference = float(np.abs(form.run(unchecked, images) - expected).max())
        # Written so that a NaN is refused too.
        if not difference <= PORTABLE_TOLERANCE:
            raise PortableError(
                f"The {place.suffix} file of {model.name!r} does not answer as the "
                f"live model: the largest difference is {difference:.3g}, "
                f"{PORTABLE_TOLERANCE:g} is tolerated."
            )
        _publish(unchecked, place)
    return difference


def _form_of(place: Path) -> FileFormat:
    for form in FORMATS.values():
        if place.suffix == form.suffix:
            return form
    endings = ", ".join(form.suffix for form in FORMATS.values())
    raise ValueError(
        "Invalid value for argument `path`. Expected a file name that ends in one of "
        f"{endings}. Received: {place.name!r}"
    )


def _convert(model: keras.Model, form: FileFormat, path: Path) -> None:
    try:
        form.convert(model, path)
    except OSError:
        raise
    except Exception as error:  # Each converter raises its own.
        raise PortableError(
            f"{model.name!r} cannot be converted to {form.suffix}: {error}"
        ) from error


def _publish(unchecked: Path, place: Path) -> None:
    beside = [file for file in unchecked.parent.iterdir() if file != unchecked]
    if beside:
        # An old graph would be read with new weights.
        place.unlink(missing_ok=True)
    for file in beside:
        file.replace(place.with_name(file.name))
    unchecked.replace(place)
