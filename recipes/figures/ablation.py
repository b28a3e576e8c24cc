"""What becomes of the defence when one choice is another: a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from figures.drawing import Result
from figures.trapdoor import examples_of, run
from keras_traps.attacks import Attack
from keras_traps.attractors import Calibration, calibrate
from keras_traps.commands.trapping import accuracy
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence, defend
from keras_traps.ops import Key

_CALIBRATED_ON = 10_000
_FPRS = (0.05, 0.005)
_SHARES = (0.03, 0.1, 0.5, 1.0, 2.0)
_KEPT = ("key", "messages", "steps", "ord")

Choices = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""The rows of the table: what `calibrate` is given, by what is varied and by name."""


def choices(calibration: Calibration) -> Choices:
    """Lists the rows of the table; each changes one thing of the calibration."""
    base, usual = calibration.settings, calibration.small_step_share
    small, large = min(base.steps), max(base.steps)
    first = f"half the pixels each, share {usual:g}, L1, {base.messages} messages"
    other = "random" if base.messages == "balanced" else "balanced"
    return {
        "none": {first: {}},
        f"pixels of step {small:g}": {
            f"all pixels {small:g}": {"steps": (small,)},
            "two in three": {"steps": (small, small, large)},
            "one in three": {"steps": (small, large, large)},
            f"all pixels {large:g}": {"steps": (large,)},
        },
        "share of the small step": {
            f"{share:g}": {"small_step_share": share}
            for share in _SHARES
            if share != usual
        },
        "norm": {"L2": {"ord": 2}},
        "messages": {other: {"messages": other}},
        "key": {f"public key {seed}": {"key": Key.from_seed(seed)} for seed in (1, 2)},
    }


def ablation(
    defence: Defence,
    calibration: Calibration,
    varied: Choices,
    chosen: Sequence[Attack],
    train: Dataset,
    test: Dataset,
    *,
    num_attacked: int,
    seed: int = 0,
) -> Result:
    """Calibrates, traps and attacks anew for every choice, all on test images."""
    images = train.images[:_CALIBRATED_ON]
    examples = examples_of(defence, test, num_attacked=num_attacked, seed=seed)
    usual = {
        "output": defence.output,
        "budget": max(calibration.budget, 1 / len(images)),
        "small_step_share": calibration.small_step_share,
        **{name: getattr(calibration.settings, name) for name in _KEPT},
    }
    listed = [(group, *one) for group, of in varied.items() for one in of.items()]
    rows = []
    for group, name, changed in tqdm.tqdm(listed, unit="choice"):
        told: dict[str, Any] = {**usual, **changed}
        settings = calibrate(defence.classifier, images, **told).settings
        other = defend(defence.classifier, settings, images, fprs=_FPRS)
        analyzers = [other.analyzers[fpr] for fpr in _FPRS]
        clean = analyzers[0].evidence(test.images)
        row: dict[str, Any] = {
            "group": group,
            "name": name,
            "step_weights": settings.step_weights,
            "a2": settings.a2,
            "accuracy": accuracy(other.trapped, test),
            "clean_flagged": [
                one.judge(clean).is_adversarial.mean() for one in analyzers
            ],
        }
        for attack in chosen:
            result = run(attack, other.trapped, "scores", examples, seed)
            evidence = analyzers[0].evidence(result.images)
            verdicts = [one.judge(evidence) for one in analyzers]
            caught = result.success & verdicts[0].is_adversarial
            right = verdicts[0].recovered[caught] == examples.labels[caught]
            row[attack.name] = {
                "fooled": result.success.mean(),
                "unnoticed": [
                    np.mean(result.success & ~one.is_adversarial) for one in verdicts
                ],
                "recovered": right.mean() if caught.any() else None,
            }
        rows.append(row)
    return Result(
        figure="ablation",
        dataset=test.name,
        title=f"One choice at a time on {test.name}",
        pictures={},
        numbers={
            "attacked": len(examples),
            "clean": len(test),
            "accuracy_c": accuracy(defence.classifier, test),
            "settings": {attack.name: attack.settings() for attack in chosen},
            "rows": rows,
        },
        words={"calibrated_on": f"{len(images):,}"},
    )
