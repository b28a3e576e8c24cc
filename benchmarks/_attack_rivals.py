"""Foolbox and ART, which are installed for the comparison only."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks._attack_cases import Case
from benchmarks._attack_libraries import Library, Run, import_quietly
from benchmarks._attack_victim import Victim
from keras_traps._checks import FloatArray, IntArray
from keras_traps.models.inference import inference_function


class Foolbox(Library):
    """Foolbox on the logits."""

    name = "Foolbox"
    package = "foolbox"
    distribution = "foolbox"

    def __init__(self, victim: Victim, *, batch_size: int, compiled: bool) -> None:
        super().__init__(victim, batch_size=batch_size, compiled=compiled)
        self._foolbox = import_quietly("foolbox")
        self._model = self._foolbox.TensorFlowModel(
            inference_function(victim.model) if compiled else victim.model,
            bounds=(0, 1),
            device="/GPU:0" if tf.config.list_physical_devices("GPU") else "/CPU:0",
        )

    def run(self, case: Case) -> Run | None:
        """Prepares an attack."""
        method = self._method(case)
        if method is None:
            return None
        eps = case.settings.get("eps")

        def attack(
            images: FloatArray, labels: IntArray, targets: IntArray
        ) -> FloatArray:
            criterion = (
                self._foolbox.criteria.TargetedMisclassification(tf.constant(targets))
                if case.attack.targeted
                else self._foolbox.criteria.Misclassification(tf.constant(labels))
            )
            _, clipped, _ = method(
                self._model, tf.constant(images), criterion, epsilons=eps
            )
            return clipped.numpy()

        return lambda: self.victim.in_batches(attack, self.batch_size)

    def _method(self, case: Case) -> Any:
        methods, settings = self._foolbox.attacks, case.settings
        match case.attack.name:
            case "PGD":
                return methods.LinfPGD(
                    abs_stepsize=settings["eps_iter"],
                    steps=settings["nb_iter"],
                    random_start=True,
                )
            case "DeepFool":
                return methods.L2DeepFoolAttack(
                    steps=settings["max_iter"],
                    candidates=self.victim.num_classes,
                    overshoot=settings["overshoot"],
                )
            case "CW2":
                return methods.L2CarliniWagnerAttack(
                    binary_search_steps=settings["binary_search_steps"],
                    steps=settings["max_iterations"],
                    stepsize=settings["learning_rate"],
                    confidence=settings["confidence"],
                    initial_const=settings["initial_const"],
                    abort_early=settings["abort_early"],
                )
            case "EAD":
                return methods.EADAttack(
                    binary_search_steps=settings["binary_search_steps"],
                    steps=settings["max_iterations"],
                    initial_stepsize=settings["learning_rate"],
                    confidence=settings["confidence"],
                    initial_const=settings["initial_const"],
                    regularization=settings["beta"],
                    decision_rule=settings["decision_rule"],
                    abort_early=settings["abort_early"],
                )
        return None


class ART(Library):
    """The Adversarial Robustness Toolbox on the logits."""

    name = "ART"
    package = "art"
    distribution = "adversarial-robustness-toolbox"

    def __init__(self, victim: Victim, *, batch_size: int, compiled: bool) -> None:
        super().__init__(victim, batch_size=batch_size, compiled=compiled)
        self._evasion = import_quietly("art.attacks.evasion")
        self._model = import_quietly(
            "art.estimators.classification"
        ).TensorFlowV2Classifier(
            _compiled_for_art(victim.model) if compiled else victim.model,
            nb_classes=victim.num_classes,
            input_shape=victim.images.shape[1:],
            loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
            clip_values=(0.0, 1.0),
        )

    def run(self, case: Case) -> Run | None:
        """Prepares an attack."""
        if case.attack.name == "UAP":
            return self._universal(case)
        method = self._method(case)
        if method is None:
            return None
        goals = self.victim.targets if case.attack.targeted else self.victim.labels
        # It makes the batches itself.
        return lambda: method.generate(self.victim.images, goals)

    def _method(self, case: Case) -> Any:
        evasion, settings = self._evasion, case.settings
        common = {"batch_size": self.batch_size, "verbose": False}
        match case.attack.name:
            case "PGD":
                return evasion.ProjectedGradientDescent(
                    self._model,
                    eps=settings["eps"],
                    eps_step=settings["eps_iter"],
                    max_iter=settings["nb_iter"],
                    num_random_init=1,
                    **common,
                )
            case "DeepFool":
                return evasion.DeepFool(
                    self._model,
                    max_iter=settings["max_iter"],
                    epsilon=settings["overshoot"],
                    nb_grads=self.victim.num_classes,
                    **common,
                )
            case "JSMA":
                return evasion.SaliencyMapMethod(
                    self._model,
                    theta=settings["theta"],
                    gamma=settings["gamma"],
                    **common,
                )
            case "CW2":
                return evasion.CarliniL2Method(
                    self._model, **_search(settings), **common
                )
            case "EAD":
                return evasion.ElasticNet(
                    self._model,
                    **_search(settings),
                    **common,
                    beta=settings["beta"],
                    decision_rule=settings["decision_rule"],
                )
        return None

    def _universal(self, case: Case) -> Run:
        settings, victim = case.settings, self.victim
        method = self._evasion.UniversalPerturbation(
            self._model,
            attacker="deepfool",
            attacker_params={
                "max_iter": settings["deepfool_max_iter"],
                "epsilon": settings["overshoot"],
                "nb_grads": victim.num_classes,
                "verbose": False,
            },
            delta=1 - settings["fooling_rate"],
            max_iter=settings["max_iter"],
            eps=settings["eps"],
            batch_size=self.batch_size,
            verbose=False,
        )

        def run() -> FloatArray:
            method.generate(victim.background)
            return np.clip(victim.images + method.noise, 0, 1)

        return run


def _search(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "targeted": True,
        "confidence": settings["confidence"],
        "learning_rate": settings["learning_rate"],
        "binary_search_steps": settings["binary_search_steps"],
        "max_iter": settings["max_iterations"],
        "initial_const": settings["initial_const"],
    }


def _compiled_for_art(model: keras.Model) -> Any:
    infer = inference_function(model)
    # It calls the model with `training`, and sometimes on float64.
    return lambda x, training=False: infer(tf.cast(x, tf.float32))  # noqa: ARG005
