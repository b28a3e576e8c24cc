"""Who attacks what: the paper's attacker, others, and a control that aims at none."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Literal

import keras
import numpy as np

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks import Attack, create
from keras_traps.attacks.distances import distances
from keras_traps.datasets import Dataset
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.models.inference import predict

Threat = Literal["luring", "whitebox", "surrogate", "identity", "softened", "exchanged"]
"""What an attacker has, to fool what is deployed.

- `"luring"`: M∘P, and takes it for what is deployed; the paper's.
- `"whitebox"`: M itself.
- `"surrogate"`: a classifier of M's architecture that the attacker trained on the same
  images, without P.
- `"identity"`: M∘P, and knows what P is for: the gradient goes past it.
- `"softened"`: M∘P, and knows that P's last sigmoid saturates: the gradient goes
  through a flatter one.
- `"exchanged"`: M∘P, but each image gets the change that was made for another: the
  control. Where M is right on no more of what was made for the very image, that made on
  M∘P does not transfer, whatever the size of the change does to M.
"""

THREATS: dict[Threat, str] = {
    "luring": "is given M∘P and attacks it, unaware of the defence, as in the paper",
    "whitebox": "has M itself, its weights included",
    "surrogate": "trains a classifier of M's architecture on M's training images, "
    "without P, and attacks that",
    "identity": "is given M∘P and knows what P is for: the gradient takes P for the "
    "identity",
    "softened": "is given M∘P and knows that P's last sigmoid saturates: the gradient "
    "goes through a flatter one, of several the best",
    "exchanged": "is a control: each image gets the change that `luring` made for "
    "another one, with the attack's first settings",
}
"""What each attacker has and does, as the end of a sentence."""

THROUGH = ("lure",)
"""The layers that `"identity"` takes for the identity."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A variant of M∘P before one kind of attacker.

    Args:
        threat: The attacker.
        variant: How M∘P was made.
        attacked: What the attacker crafts images on; returns logits.
        target: M.
        augmented: M∘P.
        ids: Which test images are attacked.
        images: Those, `(images, height, width, channels)`, in [0, 1].
        labels: Their true classes.
        weights: Hashes of the weights of all models that the images depend on, by name.
        choice: What else the attacker chose, by name. Defaults to nothing.
    """

    threat: Threat
    variant: str
    attacked: keras.Model
    target: keras.Model
    augmented: keras.Model
    ids: IntArray
    images: FloatArray
    labels: IntArray
    weights: Mapping[str, str]
    choice: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The folder of its records: no other weights or choice share it."""
        told = "".join(self.weights.values())
        if self.choice:
            told += json.dumps(dict(self.choice))
        digest = hashlib.sha256(told.encode()).hexdigest()
        return f"{self.threat}-{self.variant}-{digest[:10]}"

    def run(self, attack: Attack, rows: slice, *, seed: int) -> LuringRecord:
        """Attacks some of the images, or others in their place.

        Args:
            attack: The attack.
            rows: Which, by their position.
            seed: Of the attack's randomness.

        Returns:
            What became of each; the same in whatever pieces, up to rounding.

        Raises:
            ValueError: If changes are to be exchanged, and the number of all images is
                odd.
        """
        places = np.arange(len(self.ids))[rows]
        crafted = self._partners(places) if self.threat == "exchanged" else places
        result = attack(
            self.attacked,
            self.images[crafted],
            self.labels[crafted],
            output="logits",
            seed=seed,
            ids=self.ids[crafted],
            batch_size=len(crafted),
        )
        images = result.images
        if self.threat == "exchanged":
            change = images - self.images[crafted]
            images = np.clip(self.images[places] + change, 0.0, 1.0)
        moved = distances(self.images[places], images)
        return LuringRecord(
            ids=self.ids[places],
            labels=self.labels[places],
            augmented=predict(self.augmented, images).argmax(axis=1),
            target=predict(self.target, images).argmax(axis=1),
            l0=moved.l0,
            l2=moved.l2,
            linf=moved.linf,
            iterations=result.iterations,
        )

    def _partners(self, places: IntArray) -> IntArray:
        """The image beside each: whatever the pieces, two change places."""
        if len(self.ids) % 2:
            # The last one's partner would be another once there are more images.
            raise ValueError(
                "Changes are exchanged within pairs: expected an even number of "
                f"images. Received: {len(self.ids)}"
            )
        return places ^ 1


def right_on_all(
    answers: Sequence[IntArray], test: Dataset, *, num_examples: int
) -> IntArray:
    """Chooses the images to attack: the first that all models are right on.

    Args:
        answers: What each model answers to the test images.
        test: The test images.
        num_examples: How many at most.

    Returns:
        Their indices in the test set; fewer than asked for where there are fewer.

    Raises:
        ValueError: If there is none.
    """
    right = np.all([classes == test.labels for classes in answers], axis=0)
    ids = np.flatnonzero(right)[:num_examples]
    if not len(ids):
        raise ValueError("There is no test image that all models are right on.")
    return ids


def past_the_lure(attack: Attack) -> Attack:
    """Returns PGD with a gradient that goes past P.

    Args:
        attack: PGD with its settings.

    Returns:
        The attack; it does not stop where M∘P is fooled, for it is after M.

    Raises:
        ValueError: If it is another attack than PGD.
    """
    if attack.name != "PGD":
        raise ValueError(
            "Invalid value for argument `attack`. Only PGD has a form whose gradient "
            f"goes past P. Received: {attack.name}"
        )
    settings = {**attack.settings(), "abort_early": False, "through": THROUGH}
    return create("BPDA", **settings)
