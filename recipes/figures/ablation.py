"""What becomes of the defence when one choice is another: a table."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from keras_traps.attacks import Attack
from keras_traps.attractors import Calibration, TrapSettings
from keras_traps.datasets import Dataset
from keras_traps.evaluation.candidates import Candidates, choose_candidates
from keras_traps.evaluation.defence import Defence, defend
from keras_traps.evaluation.figures.recalibration import recalibrated
from keras_traps.evaluation.figures.study import Study, text_table
from keras_traps.evaluation.figures.trapdoor_attacks import run
from keras_traps.evaluation.figures.two_scales import (
    answers_as_summed,
    calibrate_two_scales,
)
from keras_traps.evaluation.report.blocks import Paragraph
from keras_traps.evaluation.report.formatting import percent
from keras_traps.models.inference import predict
from keras_traps.models.logits import logits_model

_CALIBRATED_ON = 10_000
_FPRS = (0.05, 0.005)
_LOGITS_A2 = 100.0
_TEMPERATURES = (1.0, 0.3, 0.1, 0.03)
_SHARES = (0.03, 0.1, 0.5, 1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One row of the table.

    Args:
        group: What is varied.
        name: What it is here.
        settings: Makes the constants.
    """

    group: str
    name: str
    settings: Callable[[], TrapSettings]


def ablation(
    defence: Defence,
    calibration: Calibration,
    chosen: Sequence[Attack],
    train: Dataset,
    test: Dataset,
    *,
    num_attacked: int,
    seed: int = 0,
) -> Study:
    """Calibrates, traps and attacks anew for every choice.

    Args:
        defence: The classifier.
        calibration: The choices to vary one by one, with the budget.
        chosen: The attacks.
        train: Training images, for constants and thresholds.
        test: Clean images, for accuracy and false positives; the first of them that C
            gets right are attacked.
        num_attacked: How many at most.
        seed: Seed of targets and attacks. Defaults to `0`.

    Returns:
        The table.

    Raises:
        ValueError: If the calibration does not tell its `small_step_share`.
    """
    started = time.perf_counter()
    images = train.images[:_CALIBRATED_ON]
    candidates = choose_candidates(
        predict(defence.classifier, test.images),
        test,
        num_examples=num_attacked,
        seed=seed,
        logits=logits_model(defence.classifier, defence.output),
    )
    rows = []
    listed = choices(defence, calibration, train)
    for choice in tqdm.tqdm(listed, unit="choice"):
        settings = choice.settings()
        other = defend(defence.classifier, settings, images, fprs=_FPRS)
        rows.append(
            {
                "group": choice.group,
                "name": choice.name,
                **_measure(other, settings, chosen, test, candidates, seed),
            }
        )
    names = [attack.name for attack in chosen]
    seconds = time.perf_counter() - started
    return Study(
        name=f"ablation_{test.name}",
        title=f"One choice at a time on {test.name}",
        subtitle=f"{len(candidates.ids)} attacked images, {len(test):,} clean ones, "
        f"{seconds:.0f} s",
        blocks=(
            Paragraph(
                "Every row is calibrated anew by the same rules from "
                f"{len(images):,} training images, with the same budget of changed "
                "answers, but for what its name says. Nothing was chosen by this "
                "table. Of the attacked images, which C gets right: how many M gets "
                "wrong, and behind the stroke how many of all it gets wrong unnoticed "
                "at a nominal false-positive rate of 5 % and of 0.5 %. Recovered: of "
                "those noticed at 5 %, how many are given their class again, the "
                "lowest of the attacks."
            ),
            text_table(
                "In per cent. The first row is this project's choice",
                [
                    "Varied",
                    "Choice",
                    "Weights",
                    "A2",
                    "Accuracy of M",
                    "Clean flagged",
                    *(f"{name}: fooled / unnoticed" for name in names),
                    "Recovered",
                ],
                [_cells(row, names) for row in rows],
                words=2,
            ),
        ),
        numbers={
            "attacked": len(candidates.ids),
            "clean": len(test),
            "accuracy_c": float(
                (
                    predict(defence.classifier, test.images).argmax(1) == test.labels
                ).mean()
            ),
            "settings": {attack.name: attack.settings() for attack in chosen},
            "seconds": round(seconds, 1),
            "rows": rows,
        },
    )


def choices(defence: Defence, calibration: Calibration, train: Dataset) -> list[Choice]:
    """Lists the rows of the table.

    Args:
        defence: The classifier.
        calibration: The choices to vary one by one, with the budget.
        train: Training images, for the constants.

    Returns:
        The rows; nothing is calibrated yet.

    Raises:
        ValueError: If the calibration does not tell its `small_step_share`.
    """
    share = calibration.small_step_share
    if share is None:
        raise ValueError(
            "Invalid value for argument `calibration`. Expected one that tells its "
            "`small_step_share`, which is varied. Received: small_step_share=None"
        )
    return list(_choices(defence, calibration, train, share))


def _choices(
    defence: Defence, calibration: Calibration, train: Dataset, usual_share: float
) -> Iterator[Choice]:
    base, images = calibration.settings, train.images[:_CALIBRATED_ON]
    budget = max(calibration.budget, 1 / len(images))

    def settings(**changed: Any) -> TrapSettings:
        return recalibrated(defence, calibration, images, **changed).settings

    def row(group: str, name: str, **changed: Any) -> Choice:
        return Choice(group, name, lambda: settings(**changed))

    border = f", border {base.border_weight:g}" if base.border_weight != 1 else ""
    small, large = min(base.steps), max(base.steps)
    yield row(
        "this project's",
        f"half the pixels each, share {usual_share:g}, soft labels, L1, "
        f"temperature {base.temperature:.2g}{border}",
    )
    for name, steps in (
        (f"all pixels {small:g}", (small,)),
        ("two in three", (small, small, large)),
        ("one in three", (small, large, large)),
        (f"all pixels {large:g}", (large,)),
    ):
        yield row(f"pixels of step {small:g}", name, steps=steps)

    def on_every_pixel() -> TrapSettings:
        like = dataclasses.replace(base, steps=(small, large), step_weights=(1.0, 1.0))
        answers = answers_as_summed(defence.classifier, like, images)
        return calibrate_two_scales(
            like, answers, images, small_step_share=usual_share, budget=budget
        )

    yield Choice("pixels", "both steps on every pixel", on_every_pixel)
    for share in _SHARES:
        if share != usual_share:
            yield row("share of the small step", f"{share:g}", small_step_share=share)
    for temperature in _TEMPERATURES:
        if not base.soft_labels or temperature != base.temperature:
            name = f"{temperature:g}"
            yield row("temperature", name, soft_labels=True, temperature=temperature)
    logits = {"soft_labels": False, "temperature": 1.0}
    yield row("C in the sum", "logits", **logits)
    yield row(
        "C in the sum",
        f"logits, A2 up to {_LOGITS_A2:g}",
        **logits,
        largest_a2=_LOGITS_A2,
    )
    yield row("norm", "L2", ord=2)
    yield row(
        "C and norm",
        f"logits, L2, A2 up to {_LOGITS_A2:g}",
        **logits,
        ord=2,
        largest_a2=_LOGITS_A2,
    )
    yield row("messages", "every bit alone", messages="random")
    for seed in (base.seed + 1, base.seed + 2):
        yield row("seed of messages and steps", str(seed), seed=seed)


def _measure(
    defence: Defence,
    settings: TrapSettings,
    chosen: Sequence[Attack],
    test: Dataset,
    candidates: Candidates,
    seed: int,
) -> dict[str, Any]:
    analyzers = [defence.analyzers[fpr] for fpr in _FPRS]
    clean = analyzers[0].correlations(test.images)
    found: dict[str, Any] = {
        "step_weights": list(settings.step_weights),
        "a2": settings.a2,
        "accuracy": float(
            (predict(defence.trapped, test.images).argmax(axis=1) == test.labels).mean()
        ),
        "clean_flagged": [
            float(analyzer.judge(clean).is_adversarial.mean()) for analyzer in analyzers
        ],
    }
    for attack in chosen:
        result = run(attack, defence.trapped, "scores", candidates, seed)
        w = analyzers[0].correlations(result.images)
        verdicts = [analyzer.judge(w) for analyzer in analyzers]
        caught = result.success & verdicts[0].is_adversarial
        right = verdicts[0].recovered[caught] == candidates.labels[caught]
        found[attack.name] = {
            "fooled": float(result.success.mean()),
            "unnoticed": [
                float(np.mean(result.success & ~verdict.is_adversarial))
                for verdict in verdicts
            ],
            "recovered": float(right.mean()) if caught.any() else None,
        }
    return found


def _cells(row: dict[str, Any], names: Sequence[str]) -> list[str]:
    weights = " : ".join(f"{weight:.3g}" for weight in row["step_weights"])
    attacked = [
        f"{percent(row[name]['fooled'])} / "
        + ", ".join(percent(share) for share in row[name]["unnoticed"])
        for name in names
    ]
    rates = (row[name]["recovered"] for name in names)
    recovered = [rate for rate in rates if rate is not None]
    return [
        row["group"],
        row["name"],
        weights,
        f"{row['a2']:.3g}",
        percent(row["accuracy"]),
        ", ".join(percent(share) for share in row["clean_flagged"]),
        *attacked,
        percent(min(recovered, default=None)),
    ]
