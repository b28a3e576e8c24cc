"""Attacks what was trained, and keeps what M and M∘P answer."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator
from typing import Literal

import tqdm
from absl import app, flags

from keras_traps import attacks, datasets
from keras_traps._files import make_writable
from keras_traps._flags import Flags
from keras_traps._luring.folder import Folder, open_folder
from keras_traps.attacks import Attack
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.evaluation.luring.outcomes import Outcome, write_outcome
from keras_traps.evaluation.luring.protocol import Runner, attack_subject, work
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.luring.softening import SOFTNESS, soften
from keras_traps.evaluation.luring.subjects import (
    Subject,
    Threat,
    past_the_lure,
    right_on_all,
)
from keras_traps.evaluation.records import ArrayStore
from keras_traps.evaluation.report.formatting import percent
from keras_traps.luring.metrics import luring_metrics
from keras_traps.models.inference import predict
from keras_traps.provenance import (
    provenance,
    rounding_environment,
    weights_sha256,
)

Preset = Literal["paper", "cpu"]

_PRESETS = {
    "mnist": "luring_mnist",
    "svhn_cropped": "luring_svhn",
    "cifar10": "luring_cifar10",
    # Not in the paper: to try the script.
    "digits": "luring_mnist",
}

# The surrogate's images have to transfer as those of M∘P have, and the control is
# compared with those; the others need not.
_ATTACKS: dict[Threat, list[str] | None] = {
    "luring": None,
    "whitebox": ["FGSM", "PGD", "MIM"],
    "surrogate": ["FGSM", "MIM", "DIM", "MIM-TI", "DIM-TI"],
    "identity": ["PGD"],
    "softened": ["FGSM", "MIM"],
    "exchanged": ["FGSM", "MIM", "DIM", "MIM-TI", "DIM-TI"],
}


def define_attack_flags(define: Flags) -> None:
    """Defines the flags of `attack`.

    Args:
        define: Where to define them.
    """
    define.choice(
        "preset",
        "cpu",
        Preset,
        "The attacks' settings: the paper's, or with fewer iterations, fit for a few "
        "processor cores.",
    )
    define.choice(
        "threat",
        "luring",
        Threat,
        "What the attacker has: M∘P (luring), M itself (whitebox), a classifier of his "
        "own (surrogate), or M∘P with a gradient that goes past P (identity) or "
        "through a flatter sigmoid (softened); or, as a control, each image gets the "
        "change that was made for another (exchanged).",
    )
    define.texts("attacks", None, "Which attacks. The default depends on the threat.")
    define.numbers(
        "eps",
        [],
        "The radius for pixels in [0, 1]; give it once for each. The default is the "
        "paper's three.",
    )
    define.numbers(
        "softness",
        SOFTNESS,
        "How much flatter the sigmoid of --threat=softened is, at least 1; give it "
        "once for each, the best is kept.",
    )
    define.integer("num_examples", 1000, "How many test images to attack at most.")
    define.integer(
        "num_examples_sweep",
        None,
        "On how many of them the settings of DIM, MIM-TI and DIM-TI are compared; the "
        "best of them meets all. The default is all.",
    )
    define.switch(
        "sweep",
        True,
        "Whether these settings are compared. --threat=exchanged has the first ones.",
    )
    define.integer("nb_iter", None, "How many steps. The default is the preset's.")
    define.integer("chunk_size", 250, "How many images are attacked at once.")


def attack(values: flags.FlagValues) -> Iterator[str]:
    """Attacks the variants that `--variant` names, by default all that were trained.

    Args:
        values: The parsed flags.

    Yields:
        What there is to tell.

    Raises:
        app.UsageError: If the command line is wrong, or a model is not there.
        FileExistsError: If records are there and `--resume` is off.
        ValueError: If a variant was trained before another M, or the records there
            were made with other settings.
    """
    folder = open_folder(values)
    names = folder.variants(values)
    chosen = _chosen(values)
    make_writable(folder.path, name="workdir")
    device = prepare_devices()
    hush_retracing()
    test = datasets.load(values.dataset, "test", values.data_dir)
    settings = {
        "of": "luring",
        "test_data": test.sha256,
        "seed": values.seed,
        "chunk_size": values.chunk_size,
        **rounding_environment(),
    }
    store = ArrayStore(LuringRecord, folder.path, settings, resume=values.resume)
    subjects = [
        _choices(values, subject) for subject in _subjects(values, folder, names, test)
    ]
    few = values.num_examples_sweep or values.num_examples
    # A control that looks for the most harmful settings is none.
    sweep = values.sweep and values.threat != "exchanged"
    total = sum(
        work(chosen, len(same[0].ids), few, sweep=sweep, choices=len(same))
        for same in subjects
    )
    with tqdm.tqdm(total=total, unit="image", smoothing=0.05) as bar:
        runner = Runner(store, chunk_size=values.chunk_size, seed=values.seed, bar=bar)
        for same in subjects:
            origin = functools.partial(
                provenance,
                sys.argv,
                seed=values.seed,
                device=device,
                preset=_preset_name(values),
                chunk_size=values.chunk_size,
                test_data=test.sha256,
                dataset=values.dataset,
            )
            for outcome in attack_subject(
                same,
                chosen,
                runner,
                count_sweep=few,
                sweep=sweep,
                provenance=origin,
            ):
                write_outcome(folder.path, outcome)
                bar.clear()
                yield _told(outcome, store)


def _preset_name(values: flags.FlagValues) -> str:
    name = _PRESETS[values.dataset]
    return name if values.preset == "paper" else f"{name}_cpu"


def _chosen(values: flags.FlagValues) -> list[Attack]:
    """The attacks with all radii, radius by radius within each attack."""
    threat: Threat = values.threat
    if values["softness"].present and threat != "softened":
        raise app.UsageError("--softness is for --threat=softened.")
    if min(values.softness) < 1:
        raise app.UsageError(
            f"--softness must be at least 1. Received: {min(values.softness):g}"
        )
    names: list[str] | None = values.attacks or _ATTACKS[threat]
    radii = values.eps or attacks.LURING_EPS[_PRESETS[values.dataset]]
    if threat == "identity" and names != ["PGD"]:
        raise app.UsageError(
            f"--threat=identity has PGD alone. Received: --attacks={values.attacks}"
        )
    try:
        by_radius = [
            attacks.preset(_preset_name(values), names, eps=eps) for eps in radii
        ]
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    found = [attack for same in zip(*by_radius, strict=True) for attack in same]
    if values.nb_iter:
        steps = {"nb_iter": values.nb_iter}
        found = [
            dataclasses.replace(attack, **steps)
            if "nb_iter" in attack.settings()
            else attack
            for attack in found
        ]
    if threat == "identity":
        return [past_the_lure(one) for one in found]
    return found


def _subjects(
    values: flags.FlagValues,
    folder: Folder,
    names: list[str],
    test: datasets.Dataset,
) -> list[Subject]:
    target = folder.target()
    target_weights = weights_sha256(target)
    answers = predict(target, test.images).argmax(axis=1)
    surrogate = folder.load("surrogate") if values.threat == "surrogate" else None
    found = []
    for name in names:
        facts = folder.facts(name)
        if facts["target_sha256"] != target_weights:
            raise ValueError(
                f"The variant {name} in {folder.path} was trained before another M "
                f"than {folder.target_path}. Train it again in another --workdir."
            )
        augmented = folder.augmented(name, target)
        ids = right_on_all(
            [answers, predict(augmented, test.images).argmax(axis=1)],
            test,
            num_examples=values.num_examples,
        )
        if values.threat == "exchanged":
            # Changes are exchanged within pairs.
            ids = ids[: len(ids) // 2 * 2]
            if not len(ids):
                raise app.UsageError(
                    "--threat=exchanged needs two images that M and M∘P are right on; "
                    f"there is one of {name}. Raise --num_examples."
                )
        weights = {"target": target_weights, "variant": facts["model"]}
        attacked = {"whitebox": target}.get(values.threat, augmented)
        if surrogate is not None:
            attacked = surrogate
            weights["surrogate"] = weights_sha256(surrogate)
        found.append(
            Subject(
                values.threat,
                name,
                attacked,
                target,
                augmented,
                ids,
                test.images[ids],
                test.labels[ids],
                weights,
            )
        )
    return found


def _choices(values: flags.FlagValues, subject: Subject) -> list[Subject]:
    """The subject with each choice that its attacker has."""
    if values.threat != "softened":
        return [subject]
    return [
        dataclasses.replace(
            subject,
            attacked=soften(subject.attacked, softness),
            choice={"softness": softness},
        )
        for softness in values.softness
    ]


def _told(outcome: Outcome, store: ArrayStore[LuringRecord]) -> str:
    record = outcome.read(store)
    measured = luring_metrics(**record.answers)
    rates = ", ".join(
        f"{name} {percent(getattr(measured, field).value)}"
        for name, field in (("AC_M∘P", "ac_mop"), ("AC_M", "ac_m"), ("DAC", "dac"))
    )
    return (
        f"{outcome.threat}: {outcome.attack} {outcome.eps:g} on {outcome.variant}, "
        f"{outcome.images} images: {rates} %"
    )
