"""The attacks of each library behind one call, as its documentation has them called."""

import abc
import contextlib
import importlib
import importlib.metadata
import itertools
import logging
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks.basic_iterative_method import basic_iterative_method
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from cleverhans.tf2.attacks.projected_gradient_descent import (
    projected_gradient_descent,
)

from benchmarks._attack_cases import Case
from benchmarks._attack_victim import Victim
from keras_traps._checks import FloatArray

Run = Callable[[], FloatArray]
"""Attacks all images, and returns what it made of them."""


class Library(abc.ABC):
    """A library with a victim to attack.

    Args:
        victim: Model and images.
        batch_size: How many images are attacked at once.
        compiled: Whether Foolbox and ART are handed the model as one compiled function
            instead of the Keras model. The others do so themselves.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    """By which it is imported."""
    distribution: ClassVar[str]
    """By which it is installed."""

    def __init__(self, victim: Victim, *, batch_size: int, compiled: bool) -> None:
        self.victim = victim
        self.batch_size = batch_size
        self.compiled = compiled

    @abc.abstractmethod
    def run(self, case: Case) -> Run | None:
        """Prepares an attack.

        Args:
            case: Which.

        Returns:
            The attack, or `None` where the library has none.
        """

    @classmethod
    def version(cls) -> str | None:
        """Returns the version, or `None` where the library is not installed.

        Another distribution may have a package of the same name.
        """
        try:
            import_quietly(cls.package)
        except ModuleNotFoundError as error:
            if error.name != cls.package:
                raise
            return None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(cls.distribution)
        return None


class KerasTraps(Library):
    """This package."""

    name = "keras_traps"
    package = "keras_traps"
    distribution = "keras-traps"

    def run(self, case: Case) -> Run:
        """Prepares an attack."""
        victim, attack = self.victim, case.attack
        # A universal attack would hand out what it has learnt by this seed before.
        seeds = itertools.count()

        def run() -> FloatArray:
            return attack(
                victim.model,
                victim.images,
                victim.labels,
                output="logits",
                y_target=victim.targets if attack.targeted else None,
                seed=next(seeds),
                background=victim.background,
                batch_size=self.batch_size,
            ).images

        return run


class Cleverhans(Library):
    """cleverhans as shipped, without its sanity checks, which raise on Keras 3."""

    name = "cleverhans"
    package = "cleverhans"
    distribution = "cleverhans"

    def run(self, case: Case) -> Run | None:
        """Prepares an attack."""
        settings = case.settings
        box: dict[str, Any] = {"norm": np.inf, "clip_min": 0.0, "clip_max": 1.0}
        if case.attack.name == "FGSM":
            return self._run(fast_gradient_method, eps=settings["eps"], **box)
        methods = {
            "BIM": (basic_iterative_method, {}),
            "PGD": (projected_gradient_descent, {"rand_init": True}),
            "UMIFGSM": (momentum_iterative_method, {}),
            "MIM": (momentum_iterative_method, {}),
        }
        if case.attack.name not in methods:
            return None
        # Not all settings are its own: it cannot stop early.
        names = ("eps", "eps_iter", "nb_iter", "decay_factor")
        known = {name: settings[name] for name in names if name in settings}
        method, further = methods[case.attack.name]
        return self._run(method, **known, **further, **box, sanity_checks=False)

    def _run(self, method: Callable[..., tf.Tensor], **settings: Any) -> Run:
        def attack(images: FloatArray, labels: Any, targets: Any) -> FloatArray:
            del targets
            return method(
                self.victim.model,
                tf.constant(images),
                y=tf.constant(labels),
                **settings,
            ).numpy()

        return lambda: self.victim.in_batches(attack, self.batch_size)


def import_quietly(name: str) -> Any:
    """Imports a module without the warnings that it gives meanwhile."""
    # ART tells of each attack where the level is absl's.
    logging.getLogger(name.partition(".")[0]).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
