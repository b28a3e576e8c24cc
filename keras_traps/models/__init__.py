"""Classifiers to put traps into, and how to train them."""

from keras_traps.models.deepsec import (
    cifar10_resnet20,
    load_deepsec_weights,
    mnist_cnn,
)
from keras_traps.models.digits import digits_cnn
from keras_traps.models.training import train

__all__ = [
    "cifar10_resnet20",
    "digits_cnn",
    "load_deepsec_weights",
    "mnist_cnn",
    "train",
]
