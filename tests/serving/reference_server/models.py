"""The versions of a model in a folder, loaded and unloaded as they come and go."""

import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

Arrays = Mapping[str, npt.NDArray[Any]]

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class StatusError(Exception):
    """A request that is refused, with a canonical status name."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        # gRPC drops an answer whose status is above the limit for headers.
        self.message = message[:1024]


class Loaded:
    """A version that is served."""

    def __init__(self, folder: Path) -> None:
        self.version = int(folder.name)
        saved = saved_model_pb2.SavedModel()
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
        graphs = [g for g in saved.meta_graphs if "serve" in g.meta_info_def.tags]
        if not graphs:
            raise ValueError("no graph has the tag 'serve'")
        self.signature_defs: Mapping[str, meta_graph_pb2.SignatureDef] = dict(
            graphs[0].signature_def
        )
        self._model = tf.saved_model.load(str(folder))
        self._specs = {
            name: function.structured_input_signature[1]
            for name, function in self._model.signatures.items()
        }

    def specs(self, signature: str) -> dict[str, tf.TensorSpec]:
        """Returns the inputs of a signature by name."""
        name = signature or "serving_default"
        if name not in self._specs:
            raise StatusError(
                "INVALID_ARGUMENT",
                f"Serving signature name: {name!r} not found in signature def",
            )
        specs: dict[str, tf.TensorSpec] = self._specs[name]
        return specs

    def predict(self, signature: str, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Runs a signature, or raises a StatusError that says what it expects."""
        specs = self.specs(signature)
        if set(inputs) != set(specs):
            raise StatusError(
                "INVALID_ARGUMENT",
                f"expected the inputs {sorted(specs)}, received {sorted(inputs)}",
            )
        for name, spec in specs.items():
            _check(name, spec, inputs[name])
        function = self._model.signatures[signature or "serving_default"]
        try:
            outputs = function(**{k: tf.constant(v) for k, v in inputs.items()})
        except tf.errors.OpError as error:
            code = _CODES.get(error.error_code, "UNKNOWN")
            raise StatusError(code, error.message) from error
        return {name: value.numpy() for name, value in outputs.items()}


@dataclasses.dataclass(frozen=True)
class State:
    """Where a version stands."""

    state: str
    error: str = ""


class Folder:
    """Serves the highest version of a folder that can be loaded.

    The older one goes only when the newer one answers, and not before the requests
    that it is answering are done.
    """

    def __init__(self, path: Path, interval: float) -> None:
        self._path = path
        self._interval = interval
        self._loaded: Loaded | None = None
        self._states: dict[int, State] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def start(self) -> None:
        """Looks once, then goes on looking beside."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Ends the polling."""
        self._stop.set()
        self._thread.join()

    def get(self, version: int | None) -> Loaded:
        """Returns the version that is served."""
        loaded = self._loaded
        if loaded is None or version not in (None, loaded.version):
            wanted = "Latest" if version is None else f"Specific({version})"
            raise StatusError("NOT_FOUND", f"Servable not found for request: {wanted}")
        return loaded

    def states(self, version: int | None) -> dict[int, State]:
        """Returns where the versions stand that have been seen."""
        states = dict(sorted(self._states.items(), reverse=True))
        if version is None:
            return states
        if version not in states:
            raise StatusError("NOT_FOUND", f"Could not find version {version}")
        return {version: states[version]}

    def look(self) -> None:
        """Loads what is new and drops what is gone."""
        names = [p.name for p in self._path.iterdir()] if self._path.is_dir() else []
        versions = sorted((int(n) for n in names if n.isdecimal()), reverse=True)
        before = self._loaded
        for version in versions:
            if before is not None and version == before.version:
                break
            if version in self._states and self._states[version].error:
                continue
            self._states[version] = State("LOADING")
            try:
                loaded = Loaded(self._path / str(version))
            except Exception as error:  # Whatever is wrong with it, go on serving.
                self._states[version] = State("END", f"{type(error).__name__}: {error}")
                continue
            self._loaded = loaded
            self._states[version] = State("AVAILABLE")
            break
        else:
            self._loaded = None
        if before is not None and self._loaded is not before:
            self._states[before.version] = State("END")

    def _poll(self) -> None:
        while not self._stop.wait(self._interval):
            self.look()


def _check(name: str, spec: tf.TensorSpec, value: npt.NDArray[Any]) -> None:
    dtype = np.dtype(object) if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
    if value.dtype != dtype or not spec.shape.is_compatible_with(value.shape):
        raise StatusError(
            "INVALID_ARGUMENT",
            f"input {name!r}: expected {spec.dtype.name} of shape {spec.shape}, "
            f"received {value.dtype} of shape {value.shape}",
        )
