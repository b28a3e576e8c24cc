"""Writes a defended model as a versioned SavedModel for TF Serving."""

import contextlib
import dataclasses
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)

from keras_traps._checks import check_images, is_integer
from keras_traps.attractors import ForensicAnalyzer
from keras_traps.models.outputs import Output
from keras_traps.serving import signatures as graph
from keras_traps.serving.metadata import check_metadata, command_lines, write_metadata
from keras_traps.serving.selftest import SelfTest, self_test
from keras_traps.serving.signatures import Deploy, Signature, Subject

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
"""Where TF Serving looks, in a version's folder, for requests to begin with."""

# TF Serving refuses a file of more.
_MAX_RECORDS = 1000

# What a record of that file needs of TF Serving's protocol buffers, so that an export
# does without the package that defines them. An entry of the map from names to tensors
# is a message of its key and its value.
_RECORD = """
name: "record.proto"
package: "record"
message_type {
  name: "ModelSpec"
  field { name: "name" number: 1 type: TYPE_STRING }
  field { name: "signature_name" number: 3 type: TYPE_STRING }
}
message_type {
  name: "Input"
  field { name: "key" number: 1 type: TYPE_STRING }
  field { name: "value" number: 2 type: TYPE_BYTES }
}
message_type {
  name: "PredictRequest"
  field { name: "model_spec" number: 1 type_name: "ModelSpec" }
  field { name: "inputs" number: 2 type_name: "Input" label: LABEL_REPEATED }
}
message_type {
  name: "PredictLog"
  field { name: "request" number: 1 type_name: "PredictRequest" }
}
message_type {
  name: "PredictionLog"
  field { name: "predict_log" number: 6 type_name: "PredictLog" }
}
"""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A version that was written.

    Args:
        path: Its folder, `<directory>/<version>`.
        version: Its number.
        signatures: What a client can call.
        self_test: What the self-test found.
        commands: Lines for a shell that show, serve and ask this model.
    """

    path: Path
    version: int
    signatures: tuple[Signature, ...]
    self_test: SelfTest
    commands: tuple[str, ...]


def export(
    model: keras.Model,
    directory: str | os.PathLike[str],
    *,
    analyzer: ForensicAnalyzer | None = None,
    lure: keras.Model | None = None,
    deploy: Deploy | None = None,
    output: Output | None = None,
    version: int | None = None,
    signatures: Sequence[Signature] | None = None,
    class_names: Sequence[str] | None = None,
    input_name: str = "image",
    warmup_batch_sizes: Sequence[int] = (1, 32),
    metrics: Mapping[str, float] | None = None,
    data_sha256: str | None = None,
    examples: npt.ArrayLike | None = None,
    verbose: bool = True,
) -> Exported:
    """Exports a model, proves that it answers as the live one, and publishes it.

    The version's folder appears in one step and only after the self-test, so that a
    server that polls `directory` never sees half a model nor a wrong one. The graph
    holds the chosen signatures and nothing else, of stock TensorFlow operations.

    Args:
        model: A trapped model from `inject`; the classifier M of a lured model; or any
            other classifier. Built, from images `(batch, height, width, channels)`
            with pixels in [0, 1] to `(batch, num_classes)`.
        directory: The model's folder, such as `"saved_models/mnist_attractors"`. Its
            last part is the model's name on the server.
        analyzer: The fitted analyzer of a trapped model. Defaults to `None`.
        lure: The network P of a lured model, from images to images. Defaults to
            `None`.
        deploy: What a lured model answers: `"augmented"` for M(P(x)), `"target"` for
            M(x), `"agreed"` for M(x) where both name one class and nothing else.
            Required with a `lure`. Defaults to `None`.
        output: What a `model` that is not trapped returns. Logits are turned into
            probabilities; the output of a trapped model is served as it is. Defaults
            to `None`.
        version: The version. Defaults to `None`, for the highest one there plus 1.
        signatures: What a client may call; see `keras_traps.serving.Signature`. What
            is not named is not in the graph. Defaults to `None`: `"serving_default"`,
            with an analyzer `"analyze"` and `"integrated"` too, and with
            `deploy="agreed"` `"predict_agreed"`.
        class_names: One per class. Defaults to `None`, for their numbers.
        input_name: The key of the images in a request; that of files in the
            signature `"image_bytes"` is `<input_name>_bytes`. Defaults to `"image"`.
        warmup_batch_sizes: For which batch sizes a server is to warm up every
            signature before it takes requests. Defaults to `(1, 32)`.
        metrics: Numbers for `assets.extra/defense.json`, which a server does not read.
            Defaults to `None`.
        data_sha256: The hash of the data behind them. Defaults to `None`.
        examples: A few real images for the self-test, `(batch, height, width,
            channels)`, which are rounded to whole grey levels and not stored. Noise,
            black and white are tried in any case. Defaults to `None`.
        verbose: Whether to print where the model is and how to serve it. Defaults to
            `True`.

    Returns:
        Where it is, and what was found.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If the model is not built, the analyzer was fitted for another
            decoder, or arguments are wrong or do not fit each other.
        RuntimeError: If the analyzer was not fitted.
        FileExistsError: If the version exists.
        SelfTestError: If the exported model does not answer as the live one, or the
            live one's answer to an image of the self-test is not finite. Nothing is
            published.
        OSError: If it cannot be written. Nothing is left behind.

    Example:
    >>> exported = keras_traps.serving.export(
    ...     trapped, "saved_models/digits", analyzer=analyzer
    ... )
    >>> exported.version
    1
    """
    _check_version(version)
    subject = graph.check_subject(
        model,
        output=output,
        analyzer=analyzer,
        lure=lure,
        deploy=deploy,
        class_names=class_names,
        input_name=input_name,
        signatures=signatures,
    )
    _check_batch_sizes(warmup_batch_sizes, len(subject.signatures))
    check_metadata(metrics, data_sha256)
    own = None
    if examples is not None:
        own = check_images(examples, subject.image_shape, name="examples")
    place = Path(directory).expanduser()
    check_free(place, version)

    with staging(place) as folder:
        graph.save(subject, folder)
        if warmup_batch_sizes:
            write_warmup(subject, folder, place.name, warmup_batch_sizes)
        write_metadata(subject, folder, metrics=metrics, data_sha256=data_sha256)
        result = self_test(subject, folder, own)
        number = publish(folder, place, version)
    path = place / str(number)
    commands = command_lines(subject, path)
    exported = Exported(path, number, subject.signatures, result, commands)
    if verbose:
        sys.stdout.write(_summary(exported))
    return exported


def _summary(exported: Exported) -> str:
    tested = exported.self_test
    worst = max(*tested.live.values(), *tested.alone.values())
    lines = [
        f"Exported {exported.path} with {', '.join(exported.signatures)}.",
        f"Reloaded without keras_traps: {tested.num_images} images answered as by the "
        f"live model and each alone, to {worst:.2g} of what is tolerated.",
        "Show it, serve it, ask it:",
        *(f"  {command}" for command in exported.commands),
    ]
    return "\n".join(lines) + "\n"


def versions(directory: Path) -> tuple[int, ...]:
    """Every number that names something in a model's folder, as TF Serving reads it."""
    if not directory.is_dir():
        return ()
    names = (path.name for path in directory.iterdir())
    return tuple(
        sorted({int(name) for name in names if name.isascii() and name.isdecimal()})
    )


def check_free(directory: Path, version: int | None) -> None:
    """Refuses a version that is there, and a place that is not a folder."""
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(
            "Invalid value for argument `directory`. Expected a folder. "
            f"Received a file: {str(directory)!r}"
        )
    if version in versions(directory):
        raise FileExistsError(
            f"Invalid value for argument `version`. Expected a version that is not in "
            f"{str(directory)!r}. Received: version={version}; there are "
            f"{', '.join(map(str, versions(directory)))}"
        )


@contextlib.contextmanager
def staging(directory: Path) -> Iterator[Path]:
    """Gives a folder beside the versions, whose name no server takes for one.

    It is removed at the end if it was not published; so is `directory` if it was made
    for it and nothing else is in it.
    """
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    folder = directory / f".exporting-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                directory.rmdir()


def publish(folder: Path, directory: Path, version: int | None) -> int:
    """Renames a finished folder to a version, in one step, and returns its number."""
    while True:
        check_free(directory, version)
        number = version or max(versions(directory), default=0) + 1
        try:
            # Refused by the system where a folder with something in it is there.
            folder.rename(directory / str(number))
        except OSError:
            if number not in versions(directory) or version is not None:
                check_free(directory, version)
                raise
        else:
            return number


def write_warmup(
    subject: Subject, directory: Path, name: str, batch_sizes: Sequence[int]
) -> None:
    """Writes a request of noise for every signature and batch size.

    TF Serving runs them before it lets a version take real ones.
    """
    path = directory / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in subject.signatures:
            for size in batch_sizes:
                shape = (size, *subject.image_shape)
                levels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
                batch = tf.constant(graph.as_taken(signature, levels))
                key = subject.input_key(signature)
                writer.write(prediction_log(name, signature, key, batch))


def prediction_log(
    name: str, signature: str, input_name: str, batch: tf.Tensor
) -> bytes:
    """Returns a serialised `tensorflow.serving.PredictionLog` with one request."""
    log = _record_class()()
    request = log.predict_log.request
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    tensor = tf.make_tensor_proto(batch).SerializeToString()
    request.inputs.add(key=input_name, value=tensor)
    return log.SerializeToString()


def _record_class() -> Any:
    file = text_format.Parse(_RECORD, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = pool.FindMessageTypeByName("record.PredictionLog")
    return message_factory.GetMessageClass(message)


def _check_version(version: int | None) -> None:
    if version is None:
        return
    if not is_integer(version):
        raise TypeError(
            "Invalid value for argument `version`. Expected an integer or None. "
            f"Received: version={version!r}"
        )
    if not 1 <= version < 2**63:
        raise ValueError(
            "Invalid value for argument `version`. Expected an integer from 1 to "
            f"2**63 - 1. Received: version={version}"
        )


def _check_batch_sizes(batch_sizes: Sequence[int], num_signatures: int) -> None:
    wrong = [s for s in batch_sizes if not is_integer(s) or s < 1]
    if wrong or len(batch_sizes) * num_signatures > _MAX_RECORDS:
        raise ValueError(
            "Invalid value for argument `warmup_batch_sizes`. Expected positive "
            f"integers, at most {_MAX_RECORDS // num_signatures}. "
            f"Received: warmup_batch_sizes={tuple(batch_sizes)}"
        )
