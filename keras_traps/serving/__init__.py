"""Exports defended models to TF Serving, and asks servers."""

from keras_traps.serving.client import Client
from keras_traps.serving.exporter import Exported, export
from keras_traps.serving.metadata import card
from keras_traps.serving.portable import (
    FORMATS,
    Format,
    PortableError,
    export_portable,
)
from keras_traps.serving.selftest import SelfTest, SelfTestError
from keras_traps.serving.signatures import Deploy, Signature, is_trapped

__all__ = [
    "FORMATS",
    "Client",
    "Deploy",
    "Exported",
    "Format",
    "PortableError",
    "SelfTest",
    "SelfTestError",
    "Signature",
    "card",
    "export",
    "export_portable",
    "is_trapped",
]
