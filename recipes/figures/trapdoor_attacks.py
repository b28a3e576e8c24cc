"""Attacks on the trapdoored counter-example, and what is flagged of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_traps._checks import FloatArray
from keras_traps.attacks import Attack, AttackResult
from keras_traps.attractors import (
    Counterexample,
    TrapdoorAnalyzer,
    make_counterexample,
)
from keras_traps.datasets import Dataset
from keras_traps.evaluation.candidates import Candidates
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.figures.study import text_table
from keras_traps.evaluation.report.blocks import Table
from keras_traps.evaluation.report.formatting import percent
from keras_traps.models.outputs import AttackedOutput
from keras_traps.ops.messages import MessageKind

CALIBRATED_ON = 10_000
"""How many training images trapdoors and thresholds are set from, at most."""

FPR = 0.05

WAYS = {
    "by_decoder": "its decoder",
    "by_signature": "signatures",
    "by_detector": "D > 1/2",
}
"""The ways of looking of a `TrapdoorVerdict`, and their heads in a table."""


def make_subject(
    defence: Defence, train: Dataset, amplitude: float, kind: MessageKind, seed: int
) -> Counterexample:
    """Makes the counter-example out of the undefended classifier.

    Args:
        defence: The classifier.
        train: Clean images.
        amplitude: How much a trapdoor changes a pixel.
        kind: How trapdoors are drawn.
        seed: Seed of the trapdoors.

    Returns:
        The counter-example.
    """
    return make_counterexample(
        defence.classifier,
        train.images[:CALIBRATED_ON],
        output=defence.output,
        amplitude=amplitude,
        messages=kind,
        seed=seed,
    )


def rates(analyzer: TrapdoorAnalyzer, images: FloatArray) -> dict[str, float | None]:
    """Measures how many images are flagged.

    Args:
        analyzer: The analyzer.
        images: `(images, ...)`, float32; may be none.

    Returns:
        A share for each of `WAYS`; `None` where there are no images.
    """
    if not len(images):
        return dict.fromkeys(WAYS)
    verdict = analyzer.detect(images)
    return {way: float(getattr(verdict, way).mean()) for way in WAYS}


def attack_row(
    attack: Attack,
    defence: Defence,
    analyzer: TrapdoorAnalyzer,
    candidates: Candidates,
    seed: int,
) -> dict[str, Any]:
    """Attacks the classifier, the counter-example, and the classifier with attractors.

    Args:
        attack: The attack.
        defence: The classifier with and without attractors.
        analyzer: The counter-example's analyzer.
        candidates: The images to attack.
        seed: Seed of the attack.

    Returns:
        Plain data: how many fool each model, and how many of these are flagged.
    """
    alone = run(attack, defence.classifier, defence.output, candidates, seed)
    trapdoored = run(attack, analyzer.subject.model, "scores", candidates, seed)
    trapped = run(attack, defence.trapped, "scores", candidates, seed)
    caught = defence.main_analyzer.detect(trapped.images).is_adversarial
    return {
        "attack": attack.name,
        "settings": attack.settings(),
        "fools_c": float(alone.success.mean()),
        "fools_trapdoored": float(trapdoored.success.mean()),
        **rates(analyzer, trapdoored.images[trapdoored.success]),
        "fools_attractors": float(trapped.success.mean()),
        "caught_by_attractors": float(caught[trapped.success].mean())
        if trapped.success.any()
        else None,
    }


def quiet_trapdoors(
    defence: Defence,
    chosen: Sequence[Attack],
    train: Dataset,
    test: Dataset,
    candidates: Candidates,
    amplitude: float,
    seed: int,
) -> dict[str, dict[str, float | None]]:
    """Measures what is flagged with balanced trapdoors.

    Args:
        defence: The classifier.
        chosen: The attacks; those that search for the smallest change are left out.
        train: Clean images for the trapdoors and the thresholds.
        test: Clean images to count false positives on.
        candidates: The images to attack.
        amplitude: How much a trapdoor changes a pixel.
        seed: Seed of trapdoors and attacks.

    Returns:
        A share for each of `WAYS`, by attack; `"clean images"` comes first.
    """
    subject = make_subject(defence, train, amplitude, "balanced", seed)
    analyzer = TrapdoorAnalyzer.fit(subject, train.images[:CALIBRATED_ON], fpr=FPR)
    found = {"clean images": rates(analyzer, test.images)}
    for attack in chosen:
        if attack.linf_bound is not None:
            result = run(attack, subject.model, "scores", candidates, seed)
            found[attack.name] = rates(analyzer, result.images[result.success])
    return found


def run(
    attack: Attack,
    model: keras.Model,
    output: AttackedOutput,
    candidates: Candidates,
    seed: int,
) -> AttackResult:
    """Attacks a model.

    Args:
        attack: The attack.
        model: The model.
        output: What it returns.
        candidates: The images to attack, with a target for each.
        seed: Seed of the attack.

    Returns:
        What became of each image.
    """
    return attack(
        model,
        candidates.images,
        candidates.labels,
        output=output,
        y_target=candidates.goals(attack),
        seed=seed,
        ids=candidates.ids,
    )


def attack_table(
    unattacked: Mapping[str, Mapping[str, float | None]],
    rows: Sequence[Mapping[str, Any]],
    count: int,
) -> Table:
    """Makes the table of what is flagged.

    Args:
        unattacked: Shares for each of `WAYS`, by what the images are.
        rows: What `attack_row` returned.
        count: How many images were attacked.

    Returns:
        The table.
    """
    lines = [
        (name, "", "", *(percent(found[way]) for way in WAYS), "")
        for name, found in unattacked.items()
    ]
    lines += [
        (
            row["attack"],
            percent(row["fools_c"]),
            percent(row["fools_trapdoored"]),
            *(percent(row[way]) for way in WAYS),
            percent(row["caught_by_attractors"]),
        )
        for row in rows
    ]
    return text_table(
        f"Attacks on {count} images that C gets right, in per cent: how many fool the "
        "model, and how many of these are flagged",
        [
            "Images",
            "Fool C",
            "Fool the trapdoored model",
            *(f"Flagged by {words}" for words in WAYS.values()),
            "Attractors instead: flagged",
        ],
        lines,
    )
