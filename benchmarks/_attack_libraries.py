"""The attacks of each library behind one call, as its documentation has them called."""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import itertools
import logging
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_traps import attacks
from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks import Attack
from keras_traps.models.inference import predict

# Of ART's HopSkipJump: about as many as ours makes with 2500 questions.
_ART_STEPS = 10

Run = Callable[[], FloatArray]
"""Attacks all images, and returns what it made of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoAttack(attacks.Attack):
    """AutoAttack's standard version: its four attacks, each on what still stands."""

    eps: float
    name: ClassVar[str] = "AutoAttack"

    def perturb(self, batch: attacks.Batch) -> attacks.Perturbed:
        """Attacks what none before has fooled."""
        images, rows = batch.images.copy(), np.arange(len(batch.ids))
        spent = np.zeros(len(rows), np.int64)
        for attack in attacks.preset("autoattack", eps=self.eps):
            if not len(rows):
                break
            labels = batch.labels[rows]
            part = dataclasses.replace(
                batch, images=batch.images[rows], labels=labels, ids=batch.ids[rows]
            )
            made = attack.perturb(part)
            images[rows], answers = made.images, predict(batch.model, made.images)
            spent[rows] += made.iterations
            rows = rows[answers.argmax(axis=1) == labels]
        return attacks.Perturbed(images, spent)


class Victim(NamedTuple):
    """A classifier that returns logits, and the images to attack."""

    model: keras.Model
    images: FloatArray
    labels: IntArray
    targets: IntArray
    batch_size: int

    def in_batches(self, attack: Callable[..., Any]) -> FloatArray:
        """Calls an attack on images, labels and targets, batch by batch."""
        parts = []
        for start in range(0, len(self.images), self.batch_size):
            part = slice(start, start + self.batch_size)
            made = attack(self.images[part], self.labels[part], self.targets[part])
            parts.append(np.asarray(made))
        return np.concatenate(parts)


def ours(attack: Attack, victim: Victim) -> Run:
    """This package; a name of `cleverhans/` is that library as shipped."""
    # No call may hand out what an earlier one has learnt by its seed.
    seeds = itertools.count()
    return lambda: (
        attack(
            victim.model,
            victim.images,
            victim.labels,
            y_target=victim.targets if attack.targeted else None,
            seed=next(seeds),
            batch_size=victim.batch_size,
        ).images
    )


def cleverhans(attack: Attack, victim: Victim) -> Run | None:
    """Cleverhans' own attack with the same settings, where it has one that runs."""
    settings = attack.settings()
    if f"cleverhans/{attack.name}" not in attacks.names():
        return None
    if settings.pop("abort_early", False) and attack.name == "PGD":
        return None
    if attack.name == "CW2":
        # Its constant counts once for every value of an image.
        settings["initial_const"] /= victim.images[0].size
    return ours(attacks.create(f"cleverhans/{attack.name}", **settings), victim)


def foolbox(attack: Attack, victim: Victim) -> Run | None:
    """Foolbox on the logits."""
    library, settings = _imported("foolbox"), attack.settings()
    methods = library.attacks
    match attack.name:
        case "PGD":
            method = methods.LinfPGD(
                abs_stepsize=settings["eps_iter"],
                steps=settings["nb_iter"],
                random_start=True,
            )
        case "DeepFool":
            method = methods.L2DeepFoolAttack(
                steps=settings["max_iter"],
                candidates=victim.model.output_shape[1],
                overshoot=settings["overshoot"],
            )
        case "CW2":
            method = methods.L2CarliniWagnerAttack(
                binary_search_steps=settings["binary_search_steps"],
                steps=settings["max_iterations"],
                stepsize=settings["learning_rate"],
                confidence=settings["confidence"],
                initial_const=settings["initial_const"],
                abort_early=settings["abort_early"],
            )
        case _:
            return None
    gpu = tf.config.list_physical_devices("GPU")
    model = library.TensorFlowModel(
        victim.model, bounds=(0, 1), device="/GPU:0" if gpu else "/CPU:0"
    )

    def in_batch(images: FloatArray, labels: IntArray, targets: IntArray) -> Any:
        criteria = library.criteria
        goal = (
            criteria.TargetedMisclassification(tf.constant(targets))
            if attack.targeted
            else criteria.Misclassification(tf.constant(labels))
        )
        shown = tf.constant(images)
        return method(model, shown, goal, epsilons=settings.get("eps"))[1]

    return lambda: victim.in_batches(in_batch)


def art(attack: Attack, victim: Victim) -> Run | None:
    """The Adversarial Robustness Toolbox on the logits."""
    evasion, settings = _imported("art.attacks.evasion"), attack.settings()
    common = {"batch_size": victim.batch_size, "verbose": False}
    model = _imported("art.estimators.classification").TensorFlowV2Classifier(
        victim.model,
        nb_classes=victim.model.output_shape[1],
        input_shape=victim.images.shape[1:],
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )
    match attack.name:
        case "PGD":
            method = evasion.ProjectedGradientDescent(
                model,
                eps=settings["eps"],
                eps_step=settings["eps_iter"],
                max_iter=settings["nb_iter"],
                num_random_init=1,
                **common,
            )
        case "DeepFool":
            method = evasion.DeepFool(
                model,
                max_iter=settings["max_iter"],
                epsilon=settings["overshoot"],
                nb_grads=victim.model.output_shape[1],
                **common,
            )
        case "JSMA":
            method = evasion.SaliencyMapMethod(
                model, theta=settings["theta"], gamma=settings["gamma"], **common
            )
        case "Square":
            method = evasion.SquareAttack(
                model,
                norm=np.inf,
                max_iter=settings["nb_queries"],
                eps=settings["eps"],
                p_init=settings["p_init"],
                **common,
            )
        case "HopSkipJump":
            # It takes one image at a time whatever the size of a batch.
            method = evasion.HopSkipJump(model, max_iter=_ART_STEPS, verbose=False)
        case "CW2":
            method = evasion.CarliniL2Method(
                model,
                targeted=True,
                confidence=settings["confidence"],
                learning_rate=settings["learning_rate"],
                binary_search_steps=settings["binary_search_steps"],
                max_iter=settings["max_iterations"],
                initial_const=settings["initial_const"],
                **common,
            )
        case _:
            return None
    goals = victim.targets if attack.targeted else victim.labels
    # It makes the batches itself.
    return lambda: method.generate(victim.images, goals)


def torchattacks(attack: Attack, victim: Victim) -> Run | None:
    """Torchattacks on the same weights, carried to PyTorch."""
    if attack.name not in ("PGD", "APGD", "APGD-T", "FAB", "Square", "AutoAttack"):
        return None
    if attack.settings().get("abort_early"):
        return None
    method = _imported("benchmarks._torchattacks").Method
    in_batch = method(attack, victim.model, victim.images)
    return lambda: victim.in_batches(in_batch)


LIBRARIES: dict[str, Callable[[Attack, Victim], Run | None]] = {
    "keras_traps": ours,
    "cleverhans": cleverhans,
    "foolbox": foolbox,
    "art": art,
    "torchattacks": torchattacks,
}
"""By the names of their packages, ours first."""

_DISTRIBUTIONS = {"keras_traps": "keras-traps", "art": "adversarial-robustness-toolbox"}


def version(package: str) -> str | None:
    """Returns the version of a library, or `None` where it is not installed."""
    try:
        _imported(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        return None
    # Another distribution may have a package of the same name.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(_DISTRIBUTIONS.get(package, package))
    return None


def _imported(name: str) -> Any:
    """Imports a module without the warnings that it gives meanwhile."""
    # ART tells of each attack where the level is absl's.
    logging.getLogger(name.partition(".")[0]).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
