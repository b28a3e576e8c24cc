"""Asks a model server from the command line.

Example:
    python -m keras_traps.serving.client predict digit.png --bounds 0 1 \
        --address=http://localhost:8501 --model=mnist_attractors --signature=analyze
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_traps._checks import Bounds, check_bounds
from keras_traps._pixels import pixels_of_levels
from keras_traps.serving.client.client import Client
from keras_traps.serving.client.protocol import Array, ServingError, TensorSpec


def main(argv: Sequence[str] | None = None) -> int:
    """Writes an answer as lines of JSON; returns 1 if the server or a file failed."""
    options = _parser().parse_args(argv)
    try:
        with Client(
            options.address,
            options.model,
            version=options.version,
            timeout=options.timeout,
            retries=options.retries,
            max_batch_size=options.max_batch_size,
        ) as client:
            for line in options.command(client, options):
                sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    except (ImportError, OSError, ServingError, TypeError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m keras_traps.serving.client",
        description="Asks a server of the TensorFlow Serving API.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, about in (
        (predict, "run a signature on images"),
        (status, "show the versions and their states"),
        (signatures, "show what the model takes and gives"),
    ):
        command = commands.add_parser(run.__name__, help=about)
        command.set_defaults(command=run)
        add = command.add_argument
        add("--address", required=True, help="http://host:port or grpc://host:port")
        add("--model", required=True, help="the model's name there")
        add("--version", type=int, help="the latest if left out")
        add("--timeout", type=float, default=30.0, help="in seconds")
        add("--retries", type=int, default=8, help="while unavailable")
        add("--max_batch_size", type=int, default=64, help="images in one request")
        if run is predict:
            about = "one .npy file of a batch, or PNG and JPEG files of an image each"
            add("files", nargs="+", type=Path, metavar="FILE", help=about)
            add("--signature", default="serving_default")
            about = (
                "what the model takes for black and for white, such as 0 1 or 0 255: "
                "the bounds in its assets.extra/defense.json; needed for image files "
                "and a signature of floats, not for one that takes grey levels or files"
            )
            add("--bounds", nargs=2, type=float, metavar=("LOW", "HIGH"), help=about)
            add("--output", type=Path, help="also write the outputs to this .npz file")
    return parser


def predict(client: Client, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs a signature on files: an entry per image, with its row of each output."""
    known = client.signatures().signatures
    inputs = known[options.signature].inputs if options.signature in known else {}
    # Without a spec the call below says which signatures there are.
    spec = next(iter(inputs.values()), TensorSpec("string", None))
    images = read_files(options.files, spec, options.bounds)
    answer = client.predict(images, signature=options.signature)
    if options.output is not None:
        with options.output.open("wb") as file:
            np.savez(file, allow_pickle=False, **answer)
    count = len(images)
    return [
        {
            # An output without a row per image is in each entry as a whole.
            name: (array[row] if array.shape[:1] == (count,) else array).tolist()
            for name, array in answer.items()
        }
        for row in range(count)
    ]


def status(client: Client, _: argparse.Namespace) -> list[dict[str, Any]]:
    """Asks for the versions and their states."""
    return [dataclasses.asdict(found) for found in client.status()]


def signatures(client: Client, _: argparse.Namespace) -> list[dict[str, Any]]:
    """Asks for the signatures, with their inputs and outputs in words."""
    metadata = client.signatures()
    return [
        {
            "version": metadata.version,
            "signature": name,
            "inputs": {key: str(spec) for key, spec in signature.inputs.items()},
            "outputs": {key: str(spec) for key, spec in signature.outputs.items()},
        }
        for name, signature in sorted(metadata.signatures.items())
    ]


def read_files(
    files: Sequence[Path], spec: TensorSpec, bounds: Bounds | None
) -> Array | list[bytes]:
    """Reads an array, or image files in the form that an input takes."""
    if len(files) == 1 and files[0].suffix == ".npy":
        try:
            with files[0].open("rb") as file:
                # `np.load` guesses at other formats, and raises the errors of each.
                array: Array = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{files[0]}: expected an array ({error})") from error
        return array
    if spec.dtype == "string":
        return [path.read_bytes() for path in files]
    takes_levels = "int" in spec.dtype
    if bounds is None and not takes_levels:
        # The server does not know: a guess would be a wrong answer in silence.
        raise ValueError(
            "Expected --bounds for a signature of floats, such as --bounds 0 1, or one "
            "that takes grey levels or files: serving_uint8 or image_bytes, if it is "
            "served"
        )
    *_, channels = spec.shape or (None,)
    rank = len(spec.shape or ())
    if rank in (2, 3):
        # Flat ones have what channels the file has, and others without an axis one.
        channels = rank - 2
    images = []
    for path in files:
        content = path.read_bytes()
        try:
            # As the signature `image_bytes` does.
            image = tf.io.decode_image(content, channels or 0, expand_animations=False)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(f"{path}: expected an image ({error.message})") from error
        pixels = image.numpy()
        images.append({2: pixels.ravel(), 3: pixels[..., 0]}.get(rank, pixels))
    levels = np.stack(images)
    if bounds is None or takes_levels:
        return levels
    return pixels_of_levels(check_bounds(bounds, name="--bounds"))[levels]


if __name__ == "__main__":
    sys.exit(main())
