"""The attacks of each library behind one call, as its documentation has them called."""

import abc
import dataclasses
import importlib
import importlib.metadata
import itertools
import logging
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks import Attack

Run = Callable[[], FloatArray]
"""Attacks all images, and returns what it made of them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Victim:
    """A model that returns logits, images in [0, 1], their classes, and wrong ones."""

    model: keras.Model
    images: FloatArray
    labels: IntArray
    targets: IntArray
    background: FloatArray

    def in_batches(self, attack: Callable[..., FloatArray], size: int) -> FloatArray:
        """Calls an attack on images, labels and targets, batch by batch."""
        arrays = (self.images, self.labels, self.targets)
        starts = range(0, len(self.images), size)
        parts = [attack(*(each[i : i + size] for each in arrays)) for i in starts]
        return np.concatenate(parts)


class Library(abc.ABC):
    """A library with a victim to attack."""

    distribution: ClassVar[str]
    package: ClassVar[str]

    def __init__(self, victim: Victim, batch_size: int) -> None:
        self.victim, self.batch_size = victim, batch_size

    @abc.abstractmethod
    def run(self, attack: Attack) -> Run | None:
        """Prepares its attack of the name and settings of ours; `None`: it has none."""

    @classmethod
    def version(cls) -> str | None:
        """Its version, or `None` where it is not installed."""
        try:
            import_quietly(cls.package)
            return importlib.metadata.version(cls.distribution)
        except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError):
            return None


class KerasTraps(Library):
    """This package."""

    distribution, package = "keras-traps", "keras_traps"

    def run(self, attack: Attack) -> Run:
        """Prepares the attack."""
        victim = self.victim
        # A universal attack would hand out what it has learnt by this seed before.
        seeds = itertools.count()
        return lambda: (
            attack(
                victim.model,
                victim.images,
                victim.labels,
                y_target=victim.targets if attack.targeted else None,
                seed=next(seeds),
                background=victim.background,
                batch_size=self.batch_size,
            ).images
        )


class Cleverhans(Library):
    """cleverhans as shipped, without its sanity checks, which raise on Keras 3."""

    distribution = package = "cleverhans"

    def run(self, attack: Attack) -> Run | None:
        """Prepares the attack."""
        modules = {
            "FGSM": "fast_gradient_method",
            "BIM": "basic_iterative_method",
            "PGD": "projected_gradient_descent",
            "MIM": "momentum_iterative_method",
        }
        if attack.name not in modules:
            return None
        name = modules[attack.name]
        method = getattr(
            importlib.import_module(f"cleverhans.tf2.attacks.{name}"), name
        )
        further = {} if attack.name == "FGSM" else {"sanity_checks": False}
        if attack.name == "PGD":
            further["rand_init"] = True
        names = ("eps", "eps_iter", "nb_iter", "decay_factor")
        settings = {k: v for k, v in attack.settings().items() if k in names}

        def one_batch(images: FloatArray, labels: IntArray, _: IntArray) -> FloatArray:
            return method(
                self.victim.model,
                tf.constant(images),
                y=tf.constant(labels),
                norm=np.inf,
                clip_min=0.0,
                clip_max=1.0,
                **settings,
                **further,
            ).numpy()

        return lambda: self.victim.in_batches(one_batch, self.batch_size)


class Foolbox(Library):
    """Foolbox on the logits."""

    distribution = package = "foolbox"

    def run(self, attack: Attack) -> Run | None:
        """Prepares the attack."""
        foolbox = import_quietly("foolbox")
        method = self._method(foolbox.attacks, attack.name, attack.settings())
        if method is None:
            return None
        model = foolbox.TensorFlowModel(self.victim.model, bounds=(0, 1))

        def one_batch(
            images: FloatArray, labels: IntArray, targets: IntArray
        ) -> FloatArray:
            criterion = foolbox.criteria.Misclassification(tf.constant(labels))
            if attack.targeted:
                criterion = foolbox.criteria.TargetedMisclassification(
                    tf.constant(targets)
                )
            eps = attack.settings().get("eps")
            _, clipped, _ = method(model, tf.constant(images), criterion, epsilons=eps)
            return clipped.numpy()

        return lambda: self.victim.in_batches(one_batch, self.batch_size)

    def _method(self, methods: Any, name: str, settings: dict[str, Any]) -> Any:
        if name == "PGD":
            return methods.LinfPGD(
                abs_stepsize=settings["eps_iter"],
                steps=settings["nb_iter"],
                random_start=True,
            )
        if name == "DeepFool":
            return methods.L2DeepFoolAttack(
                steps=settings["max_iter"],
                candidates=int(self.victim.model.output_shape[1]),
                overshoot=settings["overshoot"],
            )
        if name not in ("CW2", "EAD"):
            return None
        names = ("binary_search_steps", "confidence", "initial_const", "abort_early")
        search = {key: settings[key] for key in names}
        search["steps"] = settings["max_iterations"]
        if name == "CW2":
            return methods.L2CarliniWagnerAttack(
                **search, stepsize=settings["learning_rate"]
            )
        return methods.EADAttack(
            **search,
            initial_stepsize=settings["learning_rate"],
            regularization=settings["beta"],
            decision_rule=settings["decision_rule"],
        )


class ART(Library):
    """The Adversarial Robustness Toolbox on the logits."""

    distribution, package = "adversarial-robustness-toolbox", "art"

    def run(self, attack: Attack) -> Run | None:
        """Prepares the attack; ART makes the batches itself."""
        evasion = import_quietly("art.attacks.evasion")
        estimators = import_quietly("art.estimators.classification")
        victim, settings = self.victim, attack.settings()
        model = estimators.TensorFlowV2Classifier(
            victim.model,
            nb_classes=int(victim.model.output_shape[1]),
            input_shape=victim.images.shape[1:],
            loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
            clip_values=(0.0, 1.0),
        )
        common = {"batch_size": self.batch_size, "verbose": False}
        if attack.name == "PGD":
            method = evasion.ProjectedGradientDescent(
                model,
                eps=settings["eps"],
                eps_step=settings["eps_iter"],
                max_iter=settings["nb_iter"],
                num_random_init=1,
                **common,
            )
        elif attack.name == "DeepFool":
            method = evasion.DeepFool(
                model,
                max_iter=settings["max_iter"],
                epsilon=settings["overshoot"],
                nb_grads=int(victim.model.output_shape[1]),
                **common,
            )
        elif attack.name == "JSMA":
            method = evasion.SaliencyMapMethod(
                model, theta=settings["theta"], gamma=settings["gamma"], **common
            )
        elif attack.name in ("CW2", "EAD"):
            names = ("confidence", "learning_rate", "binary_search_steps")
            search = {key: settings[key] for key in (*names, "initial_const")}
            search |= {"targeted": True, "max_iter": settings["max_iterations"]}
            if attack.name == "EAD":
                search["beta"] = settings["beta"]
                search["decision_rule"] = settings["decision_rule"]
            kinds = {"CW2": evasion.CarliniL2Method, "EAD": evasion.ElasticNet}
            method = kinds[attack.name](model, **search, **common)
        else:
            return None
        goals = victim.targets if attack.targeted else victim.labels
        return lambda: method.generate(victim.images, goals)


LIBRARIES: dict[str, type[Library]] = {
    "keras_traps": KerasTraps,
    "cleverhans": Cleverhans,
    "Foolbox": Foolbox,
    "ART": ART,
}


def import_quietly(name: str) -> Any:
    """Imports a module without the warnings that it gives meanwhile."""
    # ART tells of each attack where the level is absl's.
    logging.getLogger(name.partition(".")[0]).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
