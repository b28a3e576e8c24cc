"""Keras layers that lay traps."""

from keras_traps.layers.detect_recover import DetectRecover
from keras_traps.layers.luring_input import LuringInput
from keras_traps.layers.normalized_sum import NormalizedSum
from keras_traps.layers.qim_decoder import QIMDecoder
from keras_traps.layers.soft_labels import SoftLabels

__all__ = [
    "DetectRecover",
    "LuringInput",
    "NormalizedSum",
    "QIMDecoder",
    "SoftLabels",
]
