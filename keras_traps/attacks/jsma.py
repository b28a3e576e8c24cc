"""JSMA: a few pixels to their maximum, pair by pair, by the saliency map."""

import dataclasses
import math
from typing import ClassVar, get_args

import tensorflow as tf

from keras_traps._checks import check_number
from keras_traps.attacks.base import Attack, Batch, Kind, Perturbed, TargetRule
from keras_traps.attacks.saliency import Saliency, saliency_search


@dataclasses.dataclass(frozen=True, kw_only=True)
class JSMA(Attack):
    """Jacobian-based saliency map attack: raises pairs of pixels, each pixel once.

    Each step takes the pair of the highest saliency, adds `theta` to both and clips to
    1. A search that has not reached the target when `gamma` of the values are changed,
    or that finds no admissible pair, gives back the clean image.

    The map can be that of the model's probabilities, as in cleverhans before 3.1, or of
    its outputs, as in cleverhans 3.1 and DEEPSEC. The derivatives of the probabilities
    sum to 0, so that the best pair is simply the two largest derivatives of the
    target's probability; they are taken of its log-odds, which do not saturate. On the
    DEEPSEC classifiers this is the stronger one by far.

    Args:
        theta: How much a pixel is raised, above 0 and at most 1. Defaults to `1.0`.
        gamma: About which share of the values may be changed, above 0 and at most 1.
            The number of steps is half of them, rounded up, as in DEEPSEC; cleverhans
            rounds down. Of 784 values 80 for `0.1`. Defaults to `0.1`.
        saliency: `"probabilities"` or `"logits"`: whose map. Defaults to
            `"probabilities"`.

    Reference:
        Papernot et al., The limitations of deep learning in adversarial settings, 2016.
    """

    theta: float = 1.0
    gamma: float = 0.1
    saliency: Saliency = "probabilities"
    name: ClassVar[str] = "JSMA"
    kind: ClassVar[Kind] = "TA"
    target_rule: ClassVar[TargetRule] = "random"
    searches: ClassVar[bool] = True
    note: ClassVar[str] = (
        "The saliency map is that of the probabilities; that of cleverhans 3.1 and "
        "DEEPSEC is that of the outputs and reaches fewer targets."
    )

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        for name in ("theta", "gamma"):
            value = getattr(self, name)
            check_number(value, name=name, above=0)
            if value > 1:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected at most 1. "
                    f"Received: {name}={value}"
                )
        if self.saliency not in get_args(Saliency):
            raise ValueError(
                "Invalid value for argument `saliency`. Expected one of "
                f"{get_args(Saliency)}. Received: saliency={self.saliency!r}"
            )

    def perturb(self, batch: Batch) -> Perturbed:
        """Raises pair after pair."""
        search = saliency_search(batch.model, self.saliency, batch.loss)
        size = math.prod(batch.images.shape[1:])
        # Beyond rounding: 0.1 of 20 values is two of them.
        steps = math.ceil(round(size * self.gamma, 6) / 2)
        images, iterations = search(
            tf.constant(batch.images),
            tf.constant(batch.labels),
            tf.constant(batch.ids),
            tf.constant(self.theta, tf.float32),
            tf.constant(steps, tf.int32),
        )
        return Perturbed(images, iterations)
