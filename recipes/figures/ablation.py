"""What becomes of the defence when one choice is another: a table."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from figures.drawing import Result
from figures.trapdoor import examples_of, run
from keras_traps.attacks import Attack
from keras_traps.attractors import Calibration, TrapSettings, calibrate
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence, Examples, defend
from keras_traps.models.inference import predict

_CALIBRATED_ON = 10_000
_FPRS = (0.05, 0.005)
_LOGITS_A2 = 100.0
_TEMPERATURES = (1.0, 0.3, 0.1, 0.03)
_SHARES = (0.03, 0.1, 0.5, 1.0, 2.0)


class Choice(NamedTuple):
    """One row of the table: what is varied, what it is here, and the constants."""

    group: str
    name: str
    settings: Callable[[], TrapSettings]


def choices(
    defence: Defence, calibration: Calibration, train: Dataset
) -> Iterator[Choice]:
    """Lists the rows of the table; nothing is calibrated yet.

    Each changes one thing of what the calibration was made with, on training images.
    """
    base, images = calibration.settings, train.images[:_CALIBRATED_ON]

    def row(group: str, name: str, **changed: Any) -> Choice:
        told = {
            "output": defence.output,
            "budget": max(calibration.budget, 1 / len(images)),
            "seed": base.seed,
            "messages": base.messages,
            "steps": base.steps,
            "small_step_share": calibration.small_step_share,
            "soft_labels": base.soft_labels,
            "temperature": base.temperature,
            "ord": base.ord,
            **changed,
        }
        return Choice(
            group,
            name,
            lambda: calibrate(defence.classifier, images, **told).settings,
        )

    small, large = min(base.steps), max(base.steps)
    yield row(
        "none",
        f"half the pixels each, share {calibration.small_step_share:g}, soft labels, "
        f"L1, temperature {base.temperature:.2g}",
    )
    for name, steps in (
        (f"all pixels {small:g}", (small,)),
        ("two in three", (small, small, large)),
        ("one in three", (small, large, large)),
        (f"all pixels {large:g}", (large,)),
    ):
        yield row(f"pixels of step {small:g}", name, steps=steps)
    for share in _SHARES:
        if share != calibration.small_step_share:
            yield row("share of the small step", f"{share:g}", small_step_share=share)
    for temperature in _TEMPERATURES:
        if not base.soft_labels or temperature != base.temperature:
            name = f"{temperature:g}"
            yield row("temperature", name, soft_labels=True, temperature=temperature)
    logits = {"soft_labels": False, "temperature": 1.0}
    louder = {**logits, "largest_a2": _LOGITS_A2}
    yield row("C in the sum", "logits", **logits)
    yield row("C in the sum", f"logits, A2 up to {_LOGITS_A2:g}", **louder)
    yield row("norm", "L2", ord=2)
    yield row("C and norm", f"logits, L2, A2 up to {_LOGITS_A2:g}", **louder, ord=2)
    yield row("messages", "every bit alone", messages="random")
    for seed in (base.seed + 1, base.seed + 2):
        yield row("seed of messages and steps", str(seed), seed=seed)


def ablation(
    defence: Defence,
    rows: Sequence[Choice],
    chosen: Sequence[Attack],
    train: Dataset,
    test: Dataset,
    *,
    num_attacked: int,
    seed: int = 0,
) -> Result:
    """Calibrates, traps and attacks anew for every choice.

    Accuracy and false positives are those on the test images; the first of them that C
    gets right are attacked.
    """
    images = train.images[:_CALIBRATED_ON]
    examples = examples_of(defence, test, num_attacked=num_attacked, seed=seed)
    found = []
    for choice in tqdm.tqdm(rows, unit="choice"):
        settings = choice.settings()
        other = defend(defence.classifier, settings, images, fprs=_FPRS)
        found.append(
            {
                "group": choice.group,
                "name": choice.name,
                "step_weights": list(settings.step_weights),
                "a2": settings.a2,
                **_measure(other, chosen, test, examples, seed),
            }
        )
    right = predict(defence.classifier, test.images).argmax(axis=1) == test.labels
    return Result(
        name=f"ablation_{test.name}",
        title=f"One choice at a time on {test.name}",
        pictures={},
        text=(
            f"Every row is calibrated anew by the same rules from {len(images):,} "
            "training images, with the same budget of changed answers, but for what "
            "its name says. Of the attacked images, which C gets right: which share M "
            "gets wrong, and which share it gets wrong unnoticed at a nominal "
            "false-positive rate of 5 % and of 0.5 %; of those noticed at 5 %, which "
            "share is given its class again."
        ),
        numbers={
            "attacked": len(examples),
            "clean": len(test),
            "accuracy_c": float(right.mean()),
            "settings": {attack.name: attack.settings() for attack in chosen},
            "rows": found,
        },
    )


def _measure(
    defence: Defence,
    chosen: Sequence[Attack],
    test: Dataset,
    examples: Examples,
    seed: int,
) -> dict[str, Any]:
    analyzers = [defence.analyzers[fpr] for fpr in _FPRS]
    answers = predict(defence.trapped, test.images).argmax(axis=1)
    clean = analyzers[0].correlations(test.images)
    found: dict[str, Any] = {
        "accuracy": float((answers == test.labels).mean()),
        "clean_flagged": [
            float(analyzer.judge(clean).is_adversarial.mean()) for analyzer in analyzers
        ],
    }
    for attack in chosen:
        result = run(attack, defence.trapped, "scores", examples, seed)
        w = analyzers[0].correlations(result.images)
        verdicts = [analyzer.judge(w) for analyzer in analyzers]
        caught = result.success & verdicts[0].is_adversarial
        right = verdicts[0].recovered[caught] == examples.labels[caught]
        found[attack.name] = {
            "fooled": float(result.success.mean()),
            "unnoticed": [
                float(np.mean(result.success & ~verdict.is_adversarial))
                for verdict in verdicts
            ],
            "recovered": float(right.mean()) if caught.any() else None,
        }
    return found
