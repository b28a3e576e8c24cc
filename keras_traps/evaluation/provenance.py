"""What a reader needs to make a number again: versions, hashes, date, command."""

import datetime
import hashlib
import importlib.metadata
import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Among what made a result; who records results finds it here.
from keras_traps.models.weights import weights_sha256 as weights_sha256

_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "cleverhans", "numpy")

# What changes the numbers that TensorFlow computes: how its products are rounded.
_ENVIRONMENT = ("TF_SET_ONEDNN_FPMATH_MODE", "NVIDIA_TF32_OVERRIDE")


def array_sha256(array: npt.NDArray[Any]) -> str:
    """Returns a hash of an array.

    Args:
        array: Any array.

    Returns:
        SHA-256 over its shape, dtype and bytes, as hexadecimal.
    """
    digest = hashlib.sha256(f"{array.shape} {array.dtype.str}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def provenance(argv: Sequence[str], **facts: Any) -> dict[str, Any]:
    """Collects what made a result.

    Args:
        argv: The command line: script and flags. Of the script, and of flags whose
            value is an absolute path, only the last part is kept: a path says
            nothing to a reader on another machine.
        **facts: Seeds and hashes, to be shown as they are.

    Returns:
        Plain data in the order to show it. Environment variables that change how
        TensorFlow rounds are in it where they are set.
    """
    return {
        "command": _command(argv),
        **facts,
        **rounding_environment(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": _versions(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
    }


def _command(argv: Sequence[str]) -> str:
    script, *flags = argv
    words = ["python", f"recipes/{Path(script).name}"]
    for flag in flags:
        # A value may follow its flag after a space, as a word of its own.
        name, equals, value = flag.partition("=") if flag[:1] == "-" else ("", "", flag)
        if Path(value).is_absolute():
            value = Path(value).name
        words.append(f"{name}{equals}{value}")
    return shlex.join(words)


def rounding_environment() -> dict[str, dict[str, str]]:
    """Returns the environment variables that change how TensorFlow rounds.

    Returns:
        `{"environment": {name: value}}` of those that are set; `{}` if none is.
    """
    found = {name: os.environ[name] for name in _ENVIRONMENT if os.environ.get(name)}
    return {"environment": found} if found else {}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
