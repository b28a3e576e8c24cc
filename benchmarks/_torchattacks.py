"""Torchattacks on a Keras classifier, whose weights are carried to PyTorch."""

import itertools
from typing import Any

import keras
import numpy as np
import torch
import torchattacks
from torch import nn

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks import Attack
from keras_traps.models.inference import predict

# How far the logits of the two may be apart, of the largest.
_ROUNDING = 1e-4


class Method:
    """An attack of torchattacks with the settings of ours, for images as Keras' are."""

    def __init__(self, attack: Attack, model: keras.Model, images: FloatArray) -> None:
        self._network = in_torch(model, images)
        self._attack, self._classes = attack, int(model.output_shape[1])
        self._seeds = itertools.count()

    def __call__(
        self, images: FloatArray, labels: IntArray, targets: IntArray
    ) -> FloatArray:
        """Attacks a batch; `targets` says nothing to attacks away from the labels."""
        del targets
        method = self._made(next(self._seeds))
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        made = method(torch.from_numpy(channels_first), torch.from_numpy(labels))
        found: FloatArray = made.detach().numpy().transpose(0, 2, 3, 1)
        return found

    def _made(self, seed: int) -> Any:
        name, given = self._attack.name, self._attack.settings()
        ball = {"eps": given["eps"], "norm": given.get("norm", "Linf"), "seed": seed}
        rivals = {**ball, "n_classes": self._classes}
        if name == "PGD":
            torch.manual_seed(seed)
            return torchattacks.PGD(
                self._network, given["eps"], given["eps_iter"], given["nb_iter"]
            )
        if name == "APGD":
            return torchattacks.APGD(self._network, steps=given["nb_iter"], **ball)
        if name == "APGD-T":
            return torchattacks.APGDT(self._network, steps=given["nb_iter"], **rivals)
        if name == "FAB":
            steps = given["nb_iter"]
            return torchattacks.FAB(
                self._network, steps=steps, multi_targeted=True, **rivals
            )
        if name == "Square":
            return torchattacks.Square(
                self._network,
                n_queries=given["nb_queries"],
                p_init=given["p_init"],
                resc_schedule=given["resc_schedule"],
                **ball,
            )
        return torchattacks.AutoAttack(self._network, **rivals)


def in_torch(model: keras.Model, images: FloatArray) -> nn.Module:
    """Makes the same classifier in PyTorch, up to a shift of all logits.

    Args:
        model: A graph of convolutions, normalisations, rectifiers, sums, poolings and
            dense layers that ends with one of these.
        images: On which the two have to agree.

    Raises:
        ValueError: If they do not.
    """
    network = _Graph(model).eval().requires_grad_(False)
    expected = predict(model, images)
    found = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    apart = (expected - expected.max(axis=1, keepdims=True)) - (
        found - found.max(axis=1, keepdims=True)
    )
    if not np.abs(apart).max() <= _ROUNDING * np.abs(expected).max():
        raise ValueError(
            f"The model {model.name!r} is another one in PyTorch: its logits differ by "
            f"{np.abs(apart).max():g}."
        )
    return network


class _Graph(nn.Module):
    """Calls each layer with what those before it returned, the last of which it tells.

    What a layer is not known for passes: dropout, and all that only shifts logits.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self._image = id(model.inputs[0])
        self._places: list[tuple[list[int], int]] = []
        self.parts = nn.ModuleList()
        channels_first = False
        for layer in model.layers[1:]:
            taken = layer.input if isinstance(layer.input, list) else [layer.input]
            if isinstance(layer, keras.layers.Permute):
                channels_first = layer.dims == (3, 1, 2)
            part = _part(layer, channels_first)
            if getattr(layer, "activation", None) is keras.activations.relu:
                part = nn.Sequential(part, nn.ReLU())
            self.parts.append(part)
            self._places.append(([id(each) for each in taken], id(layer.output)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = {self._image: images}
        for part, (taken, told) in zip(self.parts, self._places, strict=True):
            images = found[told] = part(*(found[each] for each in taken))
        return images


def _part(layer: keras.layers.Layer, channels_first: bool) -> nn.Module:
    weights = layer.get_weights()
    if isinstance(layer, keras.layers.Conv2D):
        kernel = weights[0].transpose(3, 2, 0, 1)
        made = nn.Conv2d(
            *(kernel.shape[1], kernel.shape[0], kernel.shape[2:]),
            stride=layer.strides,
            padding=layer.padding,
            bias=layer.use_bias,
        )
        return _with(made, [kernel, *weights[1:]])
    if isinstance(layer, keras.layers.BatchNormalization):
        norm = nn.BatchNorm2d(len(weights[0]), eps=layer.epsilon)
        norm.running_mean, norm.running_var = map(torch.from_numpy, weights[2:])
        return _with(norm, weights[:2])
    if isinstance(layer, keras.layers.Dense):
        made = nn.Linear(*weights[0].shape, bias=layer.use_bias)
        return _with(made, [weights[0].T, *weights[1:]])
    if isinstance(layer, keras.layers.MaxPooling2D):
        return nn.MaxPool2d(layer.pool_size, layer.strides)
    if isinstance(layer, keras.layers.GlobalAveragePooling2D):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if isinstance(layer, keras.layers.ZeroPadding2D):
        (top, bottom), (left, right) = layer.padding
        return nn.ZeroPad2d((left, right, top, bottom))
    if isinstance(layer, keras.layers.Flatten):
        return nn.Flatten() if channels_first else _ChannelsLast()
    if isinstance(layer, keras.layers.ReLU):
        return nn.ReLU()
    return _Sum() if isinstance(layer, keras.layers.Add) else nn.Identity()


class _Sum(nn.Module):
    """Adds what it is given."""

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        return sum(parts[1:], parts[0])


class _ChannelsLast(nn.Module):
    """Flattens images as Keras does."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.permute(0, 2, 3, 1).flatten(1)


def _with(part: Any, weights: list[Any]) -> nn.Module:
    for parameter, value in zip(part.parameters(), weights, strict=True):
        parameter.data = torch.from_numpy(np.ascontiguousarray(value))
    module: nn.Module = part
    return module
