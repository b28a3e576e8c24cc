"""Exports defended models to TF Serving, and asks servers."""

from keras_traps.serving.client import Client
from keras_traps.serving.exporter import Exported, export
from keras_traps.serving.portable import PortableError, export_portable
from keras_traps.serving.selftest import SelfTest, SelfTestError
from keras_traps.serving.subject import Deploy, Signature

__all__ = [
    "Client",
    "Deploy",
    "Exported",
    "PortableError",
    "SelfTest",
    "SelfTestError",
    "Signature",
    "export",
    "export_portable",
]
