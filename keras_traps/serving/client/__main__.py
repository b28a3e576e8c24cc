"""Asks a model server from the command line.

Example:
    python -m keras_traps.serving.client predict digit.png \
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

from keras_traps.serving.client.client import Client
from keras_traps.serving.client.protocol import (
    Answer,
    Array,
    ServingError,
    TensorSpec,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and writes its answer to the standard output, one JSON per line.

    A prediction is a line per image. An output that has not one row per image is in
    each of them as a whole.

    Args:
        argv: The command line without the program; `None` for that of the process.

    Returns:
        0, or 1 if the server or a file failed; the reason is on the standard error.
    """
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
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--address",
        required=True,
        help="http://host:port for REST, grpc://host:port for gRPC",
    )
    common.add_argument("--model", required=True, help="the model's name there")
    common.add_argument("--version", type=int, help="the latest if left out")
    common.add_argument("--timeout", type=float, default=30.0, help="in seconds")
    common.add_argument("--retries", type=int, default=8, help="while unavailable")
    common.add_argument(
        "--max_batch_size", type=int, default=64, help="images in one request"
    )
    parser = argparse.ArgumentParser(
        prog="python -m keras_traps.serving.client",
        description="Asks a server of the TensorFlow Serving API.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, about in (
        ("predict", _predict, "run a signature on images"),
        ("status", _status, "show the versions and their states"),
        ("signatures", _signatures, "show what the model takes and gives"),
    ):
        command = commands.add_parser(name, parents=[common], help=about)
        command.set_defaults(command=run)
        if run is not _predict:
            continue
        command.add_argument(
            "files",
            nargs="+",
            type=Path,
            metavar="FILE",
            help="one .npy file of a batch, or PNG and JPEG files of one image each, "
            "8 bits per channel",
        )
        command.add_argument("--signature", default="serving_default")
        command.add_argument(
            "--output", type=Path, help="also write the outputs to this .npz file"
        )
    return parser


def _predict(client: Client, options: argparse.Namespace) -> list[dict[str, Any]]:
    known = client.signatures().signatures
    inputs = known[options.signature].inputs if options.signature in known else {}
    # Without a spec the call below says which signatures there are.
    spec = next(iter(inputs.values()), TensorSpec("float32", None))
    images = _read(options.files, spec)
    answer = client.predict(images, signature=options.signature)
    if options.output is not None:
        with options.output.open("wb") as file:
            np.savez(file, allow_pickle=False, **answer)
    return _rows(answer, len(images))


def _status(client: Client, _: argparse.Namespace) -> list[dict[str, Any]]:
    return [dataclasses.asdict(status) for status in client.status()]


def _signatures(client: Client, _: argparse.Namespace) -> list[dict[str, Any]]:
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


def _rows(answer: Answer, count: int) -> list[dict[str, Any]]:
    return [
        {
            name: (array[row] if array.shape[:1] == (count,) else array).tolist()
            for name, array in answer.items()
        }
        for row in range(count)
    ]


def _read(files: Sequence[Path], spec: TensorSpec) -> Array | list[bytes]:
    if len(files) == 1 and files[0].suffix == ".npy":
        try:
            with files[0].open("rb") as file:
                # `np.load` guesses at other formats, and raises the errors of each.
                array: Array = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise ValueError(
                f"{files[0]}: expected an array of images ({error})"
            ) from error
        return array
    if spec.dtype == "string":
        return [path.read_bytes() for path in files]
    return np.stack([_decode(path, spec) for path in files])


def _decode(path: Path, spec: TensorSpec) -> Array:
    # Slow to import, and not needed for arrays.
    from PIL import Image

    channels = spec.shape[-1] if spec.shape else None
    with Image.open(path) as image:
        if image.mode.split(";")[0] in ("I", "F"):
            # Made 8 bits by clipping, nearly every pixel would be white.
            raise ValueError(
                f"{path}: expected an image of 8 bits per channel, found Pillow's mode "
                f"{image.mode!r}; scale it yourself and pass a .npy file"
            )
        grey = channels == 1 or (channels is None and image.mode in ("1", "L"))
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
    pixels = pixels[..., None] if grey else pixels
    if spec.dtype == "uint8":
        return pixels
    return (pixels / np.float32(255.0)).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
