"""Writes a defended model as a versioned SavedModel for TF Serving."""

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from keras_traps._checks import UNIT, Bounds, check_images, is_integer
from keras_traps.attractors import ForensicAnalyzer
from keras_traps.models.outputs import Output
from keras_traps.serving.metadata import check_metadata, command_lines, write_metadata
from keras_traps.serving.selftest import SelfTest, self_test
from keras_traps.serving.signatures import Deploy, Signature, Subject, save

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
"""Where TF Serving looks, in a version's folder, for requests to begin with."""

# TF Serving refuses a file of more.
_MAX_RECORDS = 1000


@dataclasses.dataclass(frozen=True)
class Exported:
    """A version that was written.

    Args:
        path: Its folder, `<directory>/<version>`.
        version: Its number.
        signatures: What a client can call.
        self_test: What the self-test found.
        commands: Lines for a shell that show, serve and ask this model.
        bounds: The least and the largest value of a pixel, where it is a float.
            Defaults to `(0.0, 1.0)`.
    """

    path: Path
    version: int
    signatures: tuple[Signature, ...]
    self_test: SelfTest
    commands: tuple[str, ...]
    bounds: Bounds = UNIT


def export(
    model: keras.Model,
    directory: str | os.PathLike[str],
    *,
    analyzer: ForensicAnalyzer | None = None,
    lure: keras.Model | None = None,
    deploy: Deploy | None = None,
    output: Output | None = None,
    bounds: Bounds | None = None,
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

    The version's folder appears in one step and only after the self-test. The graph
    holds the chosen signatures and nothing else, of stock TensorFlow operations.

    Args:
        model: A trapped model from `inject`; the classifier M of a lured model; or any
            other classifier. Built, from images `(batch, ...)` with pixels in `bounds`
            to `(batch, num_classes)`, or to `(batch, 1)` for two classes, which are
            answered as two.
        directory: The model's folder, such as `"saved_models/mnist_attractors"`. Its
            last part is the model's name on the server.
        analyzer: The fitted analyzer of a trapped model. Defaults to `None`.
        lure: The network P of a lured model, image to image. Defaults to `None`.
        deploy: What a lured model answers: `"augmented"` for M(P(x)), `"target"` for
            M(x), `"agreed"` for M(x) where both name one class and nothing else.
            Required with a `lure`. Defaults to `None`.
        output: What a `model` that is not trapped returns. Logits are turned into
            probabilities; the output of a trapped model is served as it is. Defaults
            to `None`: what its outputs look like on noise, which is printed.
        bounds: The least and the largest value of a pixel, as the model and a `lure`
            take it. Float signatures take pixels in them, and the grey levels
            0 to 255 of the others are spread over them. Defaults to `None`: those of
            a trapped model, else `(0, 1)`.
        version: The version. Defaults to `None`, for the highest one there plus 1.
        signatures: What a client may call, and what alone is in the graph; see
            `keras_traps.serving.Signature`. Defaults to `None`: `"serving_default"`,
            with an analyzer `"analyze"` and `"integrated"` too, and with
            `deploy="agreed"` `"predict_agreed"`.
        class_names: One per class. Defaults to `None`, for their numbers.
        input_name: The key of the images in a request; that of files in the
            signature `"image_bytes"` is `<input_name>_bytes`. Defaults to `"image"`.
        warmup_batch_sizes: For which batch sizes a server is to warm up every
            signature before it takes requests. Defaults to `(1, 32)`.
        metrics: Numbers for `assets.extra/defense.json`. Defaults to `None`.
        data_sha256: The hash of the data behind them. Defaults to `None`.
        examples: A few real images for the self-test, `(batch, ...)`, pixels in
            `bounds`, beside noise, black and white. They are rounded to whole grey
            levels and not stored. Defaults to `None`.
        verbose: Whether to print how to serve the model. Defaults to `True`.

    Returns:
        Where it is, and what was found.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If the model is not built, or arguments are wrong or do not fit
            each other.
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
    if version is not None and not (is_integer(version) and 1 <= version < 2**63):
        raise ValueError(
            "Invalid value for argument `version`. Expected an integer from 1 to "
            f"2**63 - 1, or None. Received: version={version!r}"
        )
    subject = Subject(
        model,
        output=output,
        bounds=bounds,
        analyzer=analyzer,
        lure=lure,
        deploy=deploy,
        class_names=class_names,
        input_name=input_name,
        signatures=signatures,
    )
    most = _MAX_RECORDS // len(subject.signatures)
    wrong = [size for size in warmup_batch_sizes if not is_integer(size) or size < 1]
    if wrong or len(warmup_batch_sizes) > most:
        raise ValueError(
            "Invalid value for argument `warmup_batch_sizes`. Expected at most "
            f"{most} positive integers. Received: {tuple(warmup_batch_sizes)}"
        )
    check_metadata(metrics, data_sha256)
    if examples is not None:
        examples = check_images(
            examples, subject.image_shape, bounds=subject.bounds, name="examples"
        )
    place = Path(directory).expanduser()
    check_free(place, version)

    with staging(place) as folder:
        save(subject, folder)
        if warmup_batch_sizes:
            write_warmup(subject, folder, place.name, warmup_batch_sizes)
        write_metadata(subject, folder, metrics=metrics, data_sha256=data_sha256)
        tested = self_test(subject, folder, examples)
        number = publish(folder, place, version)
    path = place / str(number)
    commands = command_lines(subject, path)
    if verbose:
        worst = max(*tested.live.values(), *tested.alone.values())
        low, high = subject.bounds
        found = f"What the model returns on noise looks like {subject.output}.\n"
        _tell(
            f"Exported {path} with {', '.join(subject.signatures)}.\n"
            f"Pixels that are floats are taken in [{low:g}, {high:g}].\n"
            f"{found if subject.output_was_found else ''}"
            f"Reloaded without keras_traps: {tested.num_images} images answered as by "
            f"the live model and each alone, to {worst:.2g} of what is tolerated.\n"
            "Show it, serve it, ask it:\n"
            + "".join(f"  {command}\n" for command in commands)
        )
    return Exported(path, number, subject.signatures, tested, commands, subject.bounds)


def _tell(text: str) -> None:
    """Writes to the terminal if that is possible: what is published is no failure."""
    # There may be none, it may be closed, or its reader gone.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()


def versions(directory: Path) -> list[int]:
    """Every number that names something in a model's folder, as TF Serving reads it."""
    names = [path.name for path in directory.glob("*")]
    return sorted({int(name) for name in names if re.fullmatch("[0-9]+", name)})


def check_free(directory: Path, version: int | None) -> None:
    """Refuses a version that is there."""
    found = versions(directory)
    if version in found:
        raise FileExistsError(
            f"Invalid value for argument `version`. Expected one that is not in "
            f"{str(directory)!r}. Received: version={version}; there are "
            f"{', '.join(map(str, found))}"
        )


@contextlib.contextmanager
def staging(directory: Path) -> Iterator[Path]:
    """Gives a folder in a hidden one beside the versions, and removes what it made."""
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        # An error on leaving would hide that a version was published.
        with tempfile.TemporaryDirectory(
            dir=directory, prefix=".exporting-", ignore_cleanup_errors=True
        ) as hidden:
            # Of one's own, for the hidden one cannot be read by other users.
            folder = Path(hidden, "version")
            folder.mkdir()
            yield folder
    finally:
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
            # Another exporter may have been faster.
            if number not in versions(directory):
                raise
        else:
            return number


def write_warmup(
    subject: Subject, directory: Path, name: str, batch_sizes: Sequence[int]
) -> None:
    """Writes requests of noise, which TF Serving runs before a version takes others."""
    # A message within a message is written as bytes are, so that one class of numbered
    # fields of bytes makes every part of a `tensorflow.serving.PredictionLog`.
    kind = descriptor_pb2.FieldDescriptorProto
    fields = [kind(name=f"f{n}", number=n, type=kind.TYPE_BYTES) for n in (1, 2, 3, 6)]
    message = descriptor_pb2.DescriptorProto(name="Parts", field=fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto(name="parts", message_type=[message]))
    parts = message_factory.GetMessageClass(pool.FindMessageTypeByName("Parts"))

    def written(**content: bytes) -> bytes:
        return bytes(parts(**content).SerializeToString())

    path = directory / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in subject.signatures:
            spec = written(f1=name.encode(), f3=signature.encode())
            key = subject.input_key(signature).encode()
            for size in batch_sizes:
                shape = (size, *subject.image_shape)
                levels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
                batch = tf.make_tensor_proto(subject.as_taken(signature, levels))
                inputs = written(f1=key, f2=batch.SerializeToString())
                request = written(f1=spec, f2=inputs)
                writer.write(written(f6=written(f1=request)))
