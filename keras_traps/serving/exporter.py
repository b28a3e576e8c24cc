"""Writes a defended model as a versioned SavedModel for TF Serving."""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy.typing as npt

from keras_traps._checks import check_images
from keras_traps.attractors import ForensicAnalyzer
from keras_traps.models.outputs import Output
from keras_traps.serving import graph, versions
from keras_traps.serving.commands import command_lines
from keras_traps.serving.metadata import check_metadata, write_metadata
from keras_traps.serving.selftest import SelfTest, self_test
from keras_traps.serving.subject import Deploy, Signature, Subject
from keras_traps.serving.warmup import check_batch_sizes, write_warmup


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
    versions.check_version(version)
    subject = Subject.checked(
        model,
        output=output,
        analyzer=analyzer,
        lure=lure,
        deploy=deploy,
        class_names=class_names,
        input_name=input_name,
        signatures=signatures,
    )
    check_batch_sizes(warmup_batch_sizes, subject.signatures)
    check_metadata(metrics, data_sha256)
    own = None
    if examples is not None:
        own = check_images(examples, subject.image_shape, name="examples")
    place = Path(directory).expanduser()
    versions.check_free(place, version)

    with versions.staging(place) as folder:
        graph.save(subject, folder)
        if warmup_batch_sizes:
            write_warmup(
                subject, folder, name=place.name, batch_sizes=warmup_batch_sizes
            )
        write_metadata(subject, folder, metrics=metrics, data_sha256=data_sha256)
        result = self_test(subject, folder, own)
        number = versions.publish(folder, place, version)
    path = place / str(number)
    exported = Exported(
        path, number, subject.signatures, result, command_lines(subject, path)
    )
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
