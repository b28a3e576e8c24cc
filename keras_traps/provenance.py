"""What a reader needs to make a number again: versions, hashes, date, command."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "cleverhans", "numpy")

# What changes the numbers that TensorFlow computes: how its products are rounded.
_ENVIRONMENT = ("TF_SET_ONEDNN_FPMATH_MODE", "NVIDIA_TF32_OVERRIDE")

# What says how a model is trained, or follows from the rest.
_LEFT_OUT = ("compile_config", "build_config")


def array_sha256(array: npt.NDArray[Any]) -> str:
    """Returns a hash of an array."""
    digest = hashlib.sha256(f"{array.shape} {array.dtype.str}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def weights_sha256(model: keras.Model) -> str:
    """Returns a hash of a model's weights."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(keras.ops.convert_to_numpy(weight).tobytes())
    return digest.hexdigest()


def architecture_sha256(model: keras.Model) -> str:
    """Returns a hash of what a model computes, but for its weights."""
    try:
        with warnings.catch_warnings():
            # Keras warns of lambdas, which it could not load again.
            warnings.simplefilter("ignore")
            found = _without_names(keras.saving.serialize_keras_object(model), {})
    except Exception:  # What a user's own get_config raises, or NotImplementedError.
        found = [type(layer).__qualname__ for layer in model.layers]
    plain = json.dumps(found, sort_keys=True, default=lambda one: type(one).__name__)
    return hashlib.sha256(plain.encode()).hexdigest()


def provenance(argv: Sequence[str], **facts: Any) -> dict[str, Any]:
    """Collects what made a result."""
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
    name = Path(script).name
    words = ["python", f"recipes/{name}"] if name.endswith(".py") else [name]
    for flag in flags:
        # A value may follow its flag after a space, as a word of its own.
        name, equals, value = flag.partition("=") if flag[:1] == "-" else ("", "", flag)
        kind = "folder:" if value.startswith("folder:") else ""
        if Path(value.removeprefix(kind)).is_absolute():
            value = f"{kind}{Path(value).name}"
        words.append(f"{name}{equals}{value}")
    return shlex.join(words)


def rounding_environment() -> dict[str, dict[str, str]]:
    """Returns the environment variables that change how TensorFlow rounds."""
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


def _without_names(node: Any, places: Mapping[str, int]) -> Any:
    """Returns a part of a config with layers known by their places in the model.

    Keras numbers its automatic names by what the process has made before.
    """
    if isinstance(node, list | tuple):
        match node:
            case [str(name), int(), int()] if name in places:
                # A tensor: which output of which call of the layer.
                return [places[name], *node[1:]]
        return [_without_names(part, places) for part in node]
    if not isinstance(node, dict):
        return node
    match node:
        case {"class_name": "__lambda__"}:
            # The bytes of equal code are not always the same.
            return "lambda"
        case {"class_name": str(kind), "config": {"name": _, **config}} if (
            # A policy's name, such as "float32", is all that it is.
            not kind.endswith("DTypePolicy")
        ):
            node = {key: node[key] for key in node if key != "name"}
            node["config"] = config
        case {"layers": [*layers]}:
            places = {
                layer["name"]: place
                for place, layer in enumerate(layers)
                if isinstance(layer, dict) and "name" in layer
            }
    return {
        key: _without_names(part, places)
        for key, part in node.items()
        # A newer Keras may write more settings that are not set.
        if key not in _LEFT_OUT and part is not None
    }
