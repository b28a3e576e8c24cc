"""A client of any server of the TensorFlow Serving API; NumPy in and out."""

from keras_traps.serving.client.arrays import Answer
from keras_traps.serving.client.client import Client
from keras_traps.serving.client.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    ResponseError,
    ServingError,
    UnavailableError,
)
from keras_traps.serving.client.signatures import (
    Metadata,
    Signature,
    TensorSpec,
    VersionStatus,
)

__all__ = [
    "Answer",
    "Client",
    "DeadlineExceededError",
    "InvalidArgumentError",
    "Metadata",
    "NotFoundError",
    "ResponseError",
    "ServingError",
    "Signature",
    "TensorSpec",
    "UnavailableError",
    "VersionStatus",
]
