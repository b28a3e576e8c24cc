"""Classifiers to put traps into, and how to train them."""

from keras_traps.models.architectures import (
    cifar10_resnet20,
    cifar10_vgg,
    digits_cnn,
    load_deepsec_weights,
    madry_mnist_cnn,
    mnist_cnn,
    svhn_vgg,
)
from keras_traps.models.forms import wrap
from keras_traps.models.training import train

__all__ = [
    "cifar10_resnet20",
    "cifar10_vgg",
    "digits_cnn",
    "load_deepsec_weights",
    "madry_mnist_cnn",
    "mnist_cnn",
    "svhn_vgg",
    "train",
    "wrap",
]
