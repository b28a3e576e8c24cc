"""What a served model takes and gives, as plain data, and the way to its server."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# By the names of tensorflow.DataType, without their prefix DT_.
_DTYPES = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "HALF": "float16",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "BOOL": "bool",
    "STRING": "string",
}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """The type and shape of an input or output.

    Args:
        dtype: NumPy's name of it, or `"string"`.
        shape: `None` for a size that is free; the whole is `None` if the rank is.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of any shape"
        sizes = ["?" if size is None else str(size) for size in self.shape]
        if self.shape and self.shape[0] is None:
            sizes[0] = "batch"
        return f"{self.dtype} ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of an array that holds such a tensor."""
        return np.dtype(object if self.dtype == "string" else self.dtype)


@dataclasses.dataclass(frozen=True)
class Signature:
    """One entry point of a served model.

    Args:
        inputs: By name.
        outputs: By name.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a server says about one version of a model.

    Args:
        version: The version.
        signatures: By name.
    """

    version: int
    signatures: Mapping[str, Signature]


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """Where a version of a model stands.

    Args:
        version: The version.
        state: `"START"`, `"LOADING"`, `"AVAILABLE"`, `"UNLOADING"` or `"END"`.
        error: Why it could not be loaded, or an empty string.
    """

    version: int
    state: str
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Target:
    """What a call is for.

    Args:
        model: The model's name on the server.
        version: One version, or `None` for the latest.
    """

    model: str
    version: int | None = None

    def __str__(self) -> str:
        version = "" if self.version is None else f", version {self.version}"
        return f"model {self.model!r}{version}"


class Transport(Protocol):
    """One way to a server. All methods raise the classes of `errors`."""

    def predict(
        self,
        target: Target,
        name: str,
        signature: Signature,
        inputs: Mapping[str, Array],
        timeout: float,
    ) -> tuple[dict[str, Array], int | None]:
        """Runs a signature.

        Args:
            target: The model and its version.
            name: The signature's name.
            signature: What it takes and gives.
            inputs: By name, of the signature's dtypes.
            timeout: In seconds.

        Returns:
            The outputs by name, and the version that gave them where it is known.
        """
        ...

    def metadata(self, target: Target, timeout: float) -> Metadata:
        """Asks for a version's signatures."""
        ...

    def status(self, target: Target, timeout: float) -> list[VersionStatus]:
        """Asks for the state of a model's versions."""
        ...

    def close(self) -> None:
        """Closes all connections."""
        ...


def dtype_of(name: str) -> str:
    """Returns NumPy's name of a type of the API.

    Args:
        name: E.g. `"DT_FLOAT"`.

    Raises:
        ValueError: If arrays cannot hold it.
    """
    try:
        return _DTYPES[name.removeprefix("DT_")]
    except KeyError:
        raise ValueError(f"tensors of type {name} are not supported") from None
