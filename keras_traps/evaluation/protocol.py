"""Who attacks what: DEEPSEC's protocol, chunk by chunk.

Candidates are the first test images that the undefended classifier C classifies
correctly, at most as many as asked for. Every attack meets the same candidates and the
same targets, on C and on each variant of the trapped model.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tqdm

from keras_traps._validation import FloatArray, IntArray
from keras_traps.attacks import Attack, least_likely_targets, random_targets
from keras_traps.attacks.losses import Loss
from keras_traps.attractors import ForensicAnalyzer, integrate, raw_sum
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.provenance import weights_sha256
from keras_traps.evaluation.records import Record, RecordStore
from keras_traps.evaluation.results import Variant
from keras_traps.models.inference import predict
from keras_traps.models.outputs import AttackedOutput

Subject = Variant | Literal["undefended"]
"""A variant of the trapped model, or the classifier C itself."""

KEPT_PER_CHUNK = 4
"""How many adversarial images of a record are kept whole, for pictures."""


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The images that are attacked.

    Args:
        ids: Index in the test set.
        images: `(images, height, width, channels)`, in [0, 1].
        labels: True classes.
        random: A wrong class for each.
        least_likely: The class that C holds least likely.
    """

    ids: IntArray
    images: FloatArray
    labels: IntArray
    random: IntArray
    least_likely: IntArray

    def goals(self, attack: Attack) -> IntArray | None:
        """Returns the targets of an attack, or `None` where it has none."""
        by_rule = {"random": self.random, "least_likely": self.least_likely}
        return by_rule.get(attack.target_rule)


def choose_candidates(
    outputs: FloatArray, test: Dataset, *, num_examples: int, seed: int
) -> Candidates:
    """Chooses the images to attack.

    Args:
        outputs: `(images, classes)`: C on all test images.
        test: The test images.
        num_examples: How many at most.
        seed: Seed of the random targets.

    Returns:
        The candidates; fewer than asked for where C is right on fewer.

    Raises:
        ValueError: If `num_examples` is below 1, or C is right on no image.
    """
    if num_examples < 1:
        raise ValueError(
            "Invalid value for argument `num_examples`. Expected at least 1. "
            f"Received: num_examples={num_examples}"
        )
    ids = np.flatnonzero(outputs.argmax(axis=1) == test.labels)[:num_examples]
    if not len(ids):
        raise ValueError("The classifier is right on none of the test images.")
    labels = test.labels[ids]
    return Candidates(
        ids=ids,
        images=test.images[ids],
        labels=labels,
        random=random_targets(labels, test.num_classes, seed=seed, ids=ids),
        least_likely=least_likely_targets(outputs[ids]),
    )


def attack_all(
    defence: Defence,
    candidates: Candidates,
    attacks: Sequence[Attack],
    store: RecordStore,
    *,
    variants: Sequence[Variant],
    seed: int,
    chunk_size: int,
) -> dict[Subject, dict[str, Record]]:
    """Runs every attack on C and on each variant, going on from what is recorded.

    Args:
        defence: What is attacked.
        candidates: The images to attack.
        attacks: The attacks.
        store: Where records are kept.
        variants: How the trapped model is seen.
        seed: Seed of the attacks' randomness.
        chunk_size: How many images are attacked at once and recorded together.

    Returns:
        One record per subject and attack.
    """
    analyzer = defence.main_analyzer
    subjects: list[Subject] = ["undefended", *variants]
    starts = range(0, len(candidates.ids), chunk_size)
    total = len(subjects) * len(attacks) * len(candidates.ids)
    records: dict[Subject, dict[str, Record]] = {}
    with tqdm.tqdm(total=total, unit="image", smoothing=0.05) as bar:
        for subject in subjects:
            model, output, loss = _view(defence, subject)
            records[subject] = {}
            for attack in attacks:
                bar.set_description(f"{attack.name} on {subject}")
                parts = []
                for chunk, start in enumerate(starts):
                    part = slice(start, start + chunk_size)
                    if not store.has(subject, attack.name, chunk):
                        record = _attack_chunk(
                            attack,
                            model,
                            output,
                            loss,
                            candidates,
                            part,
                            analyzer,
                            seed,
                        )
                        store.write(subject, attack.name, chunk, record)
                    parts.append(store.read(subject, attack.name, chunk))
                    bar.update(len(parts[-1].ids))
                records[subject][attack.name] = Record.join(parts)
    return records


def record_settings(
    defence: Defence,
    test: Dataset,
    attacks: Sequence[Attack],
    *,
    num_examples: int,
    seed: int,
    chunk_size: int,
) -> dict[str, Any]:
    """Returns all that the records depend on.

    Args:
        defence: What is attacked.
        test: The test images.
        attacks: The attacks.
        num_examples: How many candidates at most.
        seed: Seed of targets and attacks.
        chunk_size: How many images make a record.

    Returns:
        Plain data: the same where the records would be.
    """
    thresholds = defence.main_analyzer.thresholds
    return {
        "classifier": weights_sha256(defence.classifier),
        "output": defence.output,
        "decoder": defence.main_analyzer.decoder.fingerprint,
        "norm": defence.trapped.get_layer("normalized_sum").ord,
        "thresholds": [thresholds.upper, thresholds.lower, thresholds.deviation],
        "test_data": test.sha256,
        "attacks": {attack.name: attack.settings() for attack in attacks},
        "num_examples": num_examples,
        "seed": seed,
        "chunk_size": chunk_size,
    }


def _view(
    defence: Defence, subject: Subject
) -> tuple[keras.Model, AttackedOutput, Loss]:
    """The model that an attacker of this kind sees, and what he follows."""
    if subject == "undefended":
        return defence.classifier, defence.output, "cross_entropy"
    if subject == "paper":
        return defence.trapped, "scores", "cross_entropy"
    if subject == "margin":
        return defence.trapped, "scores", "margin"
    if subject == "raw_sum":
        return raw_sum(defence.trapped), "scores", "cross_entropy"
    integrated = integrate(defence.trapped, defence.main_analyzer)
    return integrated, "scores", "cross_entropy"


def _attack_chunk(
    attack: Attack,
    model: keras.Model,
    output: AttackedOutput,
    loss: Loss,
    candidates: Candidates,
    part: slice,
    analyzer: ForensicAnalyzer,
    seed: int,
) -> Record:
    labels, ids = candidates.labels[part], candidates.ids[part]
    targets = candidates.goals(attack)
    goals = None if targets is None else targets[part]
    result = attack(
        model,
        candidates.images[part],
        labels,
        output=output,
        y_target=goals,
        loss=loss,
        seed=seed,
        ids=ids,
        batch_size=len(ids),
    )
    return Record(
        ids=ids,
        labels=labels,
        goals=labels if goals is None else goals,
        answers=predict(model, result.images).argmax(axis=1),
        correlations=analyzer.correlations(result.images),
        l2=result.l2,
        linf=result.linf,
        kept=result.images[:KEPT_PER_CHUNK],
    )
