"""A client of any server of the TensorFlow Serving API; NumPy in and out."""

from keras_traps.serving.client.client import Client
from keras_traps.serving.client.protocol import (
    Answer,
    DeadlineExceededError,
    InvalidArgumentError,
    Metadata,
    NotFoundError,
    ResponseError,
    ServingError,
    Signature,
    TensorSpec,
    UnavailableError,
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
