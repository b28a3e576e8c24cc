"""One piece of an evaluation: an attack on a model over some of the candidates."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import keras

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks import Attack
from keras_traps.attacks.losses import Loss
from keras_traps.attractors import integrate, raw_sum
from keras_traps.evaluation.candidates import Candidates
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.records import Record
from keras_traps.evaluation.results import Variant
from keras_traps.layers.detect_recover import Recovery, needs_classifier
from keras_traps.models.outputs import AttackedOutput

Subject = Variant | Literal["undefended"]
"""A variant of the trapped model, or the classifier C itself."""

RECOVERIES: Mapping[Subject, Recovery] = {
    "integrated": "correlation",
    "integrated_label": "label",
    "integrated_difference": "difference",
    "integrated_depth": "depth",
}
"""How the integrated model of a variant recovers a class."""

KEPT_PER_TASK = 4
"""How many adversarial images of a record are kept whole, for pictures."""


@dataclasses.dataclass(frozen=True)
class View:
    """A model as an attacker of one kind sees it.

    Args:
        model: The model.
        output: What it returns.
        loss: What the attacker follows.
    """

    model: keras.Model
    output: AttackedOutput
    loss: Loss = "cross_entropy"


@dataclasses.dataclass(frozen=True)
class Task:
    """What can be done by itself, anywhere.

    Args:
        subject: What is attacked.
        attack: By which attack.
        rows: Which of the candidates, by their position.
        folder: The folder of its record, beneath the subject's.
        chunk: The number of its record.
    """

    subject: Subject
    attack: Attack
    rows: IntArray
    folder: str
    chunk: int


@dataclasses.dataclass(frozen=True)
class Job:
    """All that tasks need.

    Args:
        defence: What is attacked.
        candidates: The images to attack.
        background: `(images, ...)`: images without labels, for attacks that learn from
            many.
        seed: Seed of the attacks' randomness.
    """

    defence: Defence
    candidates: Candidates
    background: FloatArray
    seed: int
    _views: dict[Subject, View] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def run(self, task: Task) -> Record:
        """Does a task.

        Args:
            task: What to do.

        Returns:
            What the attack made of each image; the same wherever and whenever it is
            done, up to rounding.
        """
        view = self._view(task.subject)
        labels = self.candidates.labels[task.rows]
        ids = self.candidates.ids[task.rows]
        targets = self.candidates.goals(task.attack)
        goals = None if targets is None else targets[task.rows]
        result = task.attack(
            view.model,
            self.candidates.images[task.rows],
            labels,
            output=view.output,
            y_target=goals,
            loss=view.loss,
            seed=self.seed,
            ids=ids,
            background=self.background,
            batch_size=len(ids),
        )
        analyzer = self.defence.main_analyzer
        return Record(
            ids=ids,
            labels=labels,
            goals=labels if goals is None else goals,
            answers=result.answers,
            correlations=analyzer.correlations(result.images),
            l0=result.l0,
            l2=result.l2,
            linf=result.linf,
            iterations=result.iterations,
            kept=result.images[:KEPT_PER_TASK],
        )

    def _view(self, subject: Subject) -> View:
        # Kept, for a model that is made anew is traced anew.
        if subject not in self._views:
            self._views[subject] = _view(self.defence, subject)
        return self._views[subject]


def _view(defence: Defence, subject: Subject) -> View:
    match subject:
        case "undefended":
            return View(defence.classifier, defence.output)
        case "paper":
            return View(defence.trapped, "scores")
        case "margin":
            return View(defence.trapped, "scores", "margin")
        case "raw_sum":
            return View(raw_sum(defence.trapped), "scores")
    recovery = RECOVERIES[subject]
    model = integrate(
        defence.trapped,
        defence.main_analyzer,
        recovery=recovery,
        weight=defence.recovery_weight,
        recovery_classifier=(
            defence.recovery_classifier if needs_classifier(recovery) else None
        ),
    )
    return View(model, "scores")
