"""Detectors in their authors' own experiments, beside the numbers that are published.

Here an image may decide on the threshold that it is measured by, and an attack may be
known to the detector, where that was so there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from keras_traps import attacks
from keras_traps._checks import FloatArray, IntArray
from keras_traps._files import write_atomically
from keras_traps.attacks import Attack
from keras_traps.attacks.gradient import PGD
from keras_traps.commands import trapping
from keras_traps.commands.command_line import CommandLineError, Flags, refusing
from keras_traps.datasets import Dataset
from keras_traps.detectors import LID, Trapdoor
from keras_traps.detectors.lid import with_noise
from keras_traps.evaluation.paper import look_up_detector
from keras_traps.evaluation.render import plain, settings_text
from keras_traps.models.forms import for_model, in_standard_form
from keras_traps.models.inference import predict
from keras_traps.models.outputs import answers_of
from keras_traps.provenance import provenance

_TABLE_III = "Zhang, Chang, Lee 2020, Table III"
_BRYNIARSKI = "Bryniarski et al. 2022, of CIFAR-10"
# The authors' joint squeezers, in EvadeML-Zoo's Reproduce_FeatureSqueezing.md.
_SQUEEZING = {"mnist": 1.2358, "cifar10": 1.7547}
_FPR = 0.05
# LID learns from so many times as many images as it is tried on: four fifths there.
_FOUR_FIFTHS = 4


class _TargetedPGD(PGD):
    """PGD towards a random class, as the trapdoors' authors attack."""

    kind = "TA"
    target_rule = "random"


class _Few(NamedTuple):
    """Images that the classifier is right on, as it takes them."""

    images: FloatArray
    labels: IntArray


class _Trial(NamedTuple):
    """A detector with what it is tried on."""

    detector: Any
    few: _Few
    train: Dataset
    held: FloatArray
    arguments: Flags


Row = dict[str, Any]


def published(arguments: Flags, load: Callable[..., Any]) -> None:
    """Tries each detector in its own way, and writes `published.json`."""
    trapping.begin(arguments)
    train, test = trapping.load_data(arguments)
    held, rest = trapping.threshold_images(train, test, [_FPR])
    rows: list[Row] = []
    chosen = {one: load(one, test, "--detector") for one in arguments.detector}
    for folder, one in chosen.items():
        kind = type(one).__name__
        if kind not in _PROTOCOLS or (
            kind == "FeatureSqueezing" and arguments.dataset not in _SQUEEZING
        ):
            raise CommandLineError(
                f"--detector: there are no published numbers for {folder}"
            )
    for folder, one in chosen.items():
        count = arguments.num_examples
        given = for_model(one.classifier, held.images, one.bounds)
        one.fit_threshold(given, _FPR)
        few = _right_on(one, rest, count)
        trial = _Trial(one, few, train, given, arguments)
        for row in _PROTOCOLS[type(one).__name__](trial):
            rows.append({"detector": folder.name, "images": len(few.labels), **row})
            print(json.dumps(plain(rows[-1])), flush=True)
    facts = provenance(arguments.command_line, seed=arguments.seed)
    text = json.dumps(plain({"rows": rows, "provenance": facts}), indent=1)
    path = arguments.workdir / "published.json"
    write_atomically(path, f"{text}\n".encode())
    print(f"Written: {path}")


def _right_on(one: Any, data: Dataset, most: int) -> _Few:
    few = data.take(min(4 * most, len(data)))
    images = for_model(one.classifier, few.images, one.bounds)
    right = np.flatnonzero(_answers(one, images) == few.labels)[:most]
    return _Few(images[right], few.labels[right])


def _answers(one: Any, images: FloatArray) -> IntArray:
    return answers_of(predict(one.classifier, images), one.output).argmax(axis=1)


def _attacked(
    trial: _Trial, attack: Attack, few: _Few, *, told: bool = False
) -> tuple[FloatArray, IntArray | None]:
    """Attacks; returns the images, and the targets of an attack that has any."""
    one, seed = trial.detector, trial.arguments.seed
    targets = None
    if attack.targeted:
        ids = np.arange(len(few.labels))
        classes = one.classifier.output_shape[-1]
        targets = attacks.random_targets(few.labels, classes, seed=seed, ids=ids)
    more = {"detector": one} if told else {}
    result = attack(
        one.classifier,
        *few,
        bounds=one.bounds,
        output=one.output,
        y_target=targets,
        seed=seed,
        **more,
    )
    return result.images, targets


def _suite(trial: _Trial, *names: str) -> list[Attack]:
    """The paper's attacks on this data set, with fewer steps where they search."""
    dataset = trial.arguments.dataset
    name = f"{trapping.PRESETS.get(dataset, 'table7_cifar10')}"
    known = f"{name}_cpu" if f"{name}_cpu" in attacks.PRESETS else name
    with refusing():
        return attacks.preset(known, names)


def _told(trial: _Trial, attack: Attack, measure: str, kind: str) -> Row:
    """Says what was tried, with the number of Table III."""
    known = look_up_detector(kind, attack.name, trial.arguments.dataset)
    key = {"AUC": "auc", "TPR": "tpr"}[measure]
    return {
        "attack": attack.name,
        "settings": settings_text(attack.settings()),
        "measure": measure,
        "published": known.get(key),
        "source": _TABLE_III,
    }


def _lid(trial: _Trial) -> Iterator[Row]:
    """It learns from the attack that it is tried on, and from noise as large."""
    one, few = trial.detector, trial.few
    learnt = _right_on(one, trial.train, max(200, _FOUR_FIFTHS * len(few.labels)))
    for attack in _suite(trial, "FGSM", "CW2"):
        made = LID(one.classifier, output=one.output, bounds=one.bounds)
        made.fit(learnt.images, _attacked(trial, attack, learnt)[0])
        images = _attacked(trial, attack, few)[0]
        draw = np.random.default_rng(trial.arguments.seed)
        noisy = with_noise(few.images, images, draw, one.bounds)
        shown = np.concatenate([images, few.images, noisy])
        attacked = np.repeat([1, 0, 0], len(images))
        yield {
            **_told(trial, attack, "AUC", "LID"),
            "here": float(roc_auc_score(attacked, made.score(shown))),
            "as fitted": float(roc_auc_score(attacked, one.score(shown))),
        }


def _squeezing(trial: _Trial) -> Iterator[Row]:
    """At the threshold that the authors found for their own classifier."""
    one, few = trial.detector, trial.few
    at = _SQUEEZING[trial.arguments.dataset]
    ours = one.threshold(_FPR)
    clean = one.score(trial.held)
    for attack in _suite(trial, "FGSM", "BIM", "CW2"):
        images = _attacked(trial, attack, few)[0]
        # The authors round to whole grey levels, and count what still fools.
        unit = np.round(in_standard_form(images, one.bounds) * 255) / np.float32(255)
        images = for_model(one.classifier, unit, one.bounds)
        fooled = _answers(one, images) != few.labels
        scores = one.score(images)[fooled]
        yield {
            **_told(trial, attack, "TPR", "FeatureSqueezing"),
            "here": float((scores > at).mean()),
            "fooled": int(fooled.sum()),
            "at our threshold": float((scores > ours).mean()),
            "threshold": at,
            "false positives": float((clean > at).mean()),
        }


def _magnet(trial: _Trial) -> Iterator[Row]:
    """Flagged at 5 %; or flagged or reformed, which the authors count."""
    one, few = trial.detector, trial.few
    one.fit_threshold(trial.held, 0.002)
    for attack in _suite(trial, "CW2"):
        images = _attacked(trial, attack, few)[0]
        fooled = _answers(one, images) != few.labels
        scores = one.score(images)
        back = _answers(one, one.reform(images)) == few.labels
        defended = (scores > one.threshold(0.002)) | back
        yield {
            **_told(trial, attack, "TPR", "MagNet"),
            "here": float((scores > one.threshold(_FPR))[fooled].mean()),
            "fooled": int(fooled.sum()),
            "flagged at 0.2 % or reformed": float(defended[fooled].mean()),
            "reformed": float(back[fooled].mean()),
        }


def _trapdoor(trial: _Trial) -> Iterator[Row]:
    """By the signature of the target; the sources set the threshold."""
    one, few, dataset = trial.detector, trial.few, trial.arguments.dataset
    assert isinstance(one, Trapdoor)
    eps = 0.3 if dataset == "mnist" else 8 / 255
    pgd = _TargetedPGD(eps=eps, eps_iter=eps / 10, nb_iter=100)
    for attack in (pgd, *_suite(trial, "CW2", "EAD")):
        images, targets = _attacked(trial, attack, few)
        assert targets is not None
        met = _answers(one, images) == targets
        row = {**_told(trial, attack, "TPR", "Trapdoor"), "fooled": int(met.sum())}
        if met.any():
            sources = one.score_as(few.images[met], targets[met])
            scores = one.score_as(images[met], targets[met])
            limit = np.quantile(sources, 1 - _FPR)
            deployed = one.score(images[met]) > one.threshold(_FPR)
            row |= {
                "here": float((scores > limit).mean()),
                "at a threshold of held-out images": float(deployed.mean()),
            }
        yield row
    # Their CIFAR-10 numbers; of MNIST there are none.
    for eps in (0.01, 0.031) if dataset == "cifar10" else (0.1, 0.3):
        [attack] = attacks.preset("adaptive", ("OrthogonalPGD",), eps=eps)
        images, _ = _attacked(trial, attack, few, told=True)
        wrong = _answers(one, images) != few.labels
        through = wrong & (one.score(images) <= one.threshold(_FPR))
        yield {
            "attack": attack.name,
            "settings": settings_text(attack.settings()),
            "measure": "SR@5",
            "here": float(through.mean()),
            "published": 1.0 if dataset == "cifar10" else None,
            "source": _BRYNIARSKI,
        }


_PROTOCOLS: dict[str, Callable[[_Trial], Iterator[Row]]] = {
    "LID": _lid,
    "FeatureSqueezing": _squeezing,
    "MagNet": _magnet,
    "Trapdoor": _trapdoor,
}
