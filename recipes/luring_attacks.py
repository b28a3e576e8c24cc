"""Attacks what was trained, keeps what M and M∘P answer, and makes the tables."""

import dataclasses
from typing import Any

import pandas as pd
from luring_folder import WHOLE, Folder

from keras_traps import attacks
from keras_traps.commands.command_line import CommandLineError, Flags, refusing
from keras_traps.commands.trapping import begin, load_data
from keras_traps.datasets import Dataset
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.evaluation.metrics import (
    CleanVariant,
    clean_accuracy,
    luring_rates,
    make_frame,
)
from keras_traps.evaluation.records import RecordStore, record_settings
from keras_traps.evaluation.render import percent
from keras_traps.evaluation.report import write_luring_tables
from keras_traps.evaluation.runner import attack_all
from keras_traps.evaluation.subjects import Subject, choose_examples, luring_subjects
from keras_traps.luring.schemes import SOFTNESS
from keras_traps.models.forms import check_data, class_answers
from keras_traps.models.inference import predict
from keras_traps.provenance import provenance, weights_sha256
from keras_traps.rates import Rate

_PRESETS = {
    "mnist": "luring_mnist",
    "svhn_cropped": "luring_svhn",
    "cifar10": "luring_cifar10",
    # Not in the paper: to try the script.
    "digits": "luring_mnist",
}

# The surrogate's images have to transfer as those of M∘P have, and the control is
# compared with those; the others need not.
_TRANSFERRING = ("FGSM", "MIM", "DIM", "MIM-TI", "DIM-TI")
_ATTACKS: dict[str, tuple[str, ...] | None] = {
    "luring": None,
    "whitebox": ("FGSM", "PGD", "MIM"),
    "surrogate": _TRANSFERRING,
    "identity": ("PGD",),
    "softened": ("FGSM", "MIM"),
    "exchanged": _TRANSFERRING,
}

# What is measured on clean images, and not how a model was trained.
_MEASURED = {"target", "test", "agree", "same", "parameters", "test_data", "versions"}


def attack(arguments: Flags) -> None:
    """Attacks the variants of `--variant`, and tells of each attack as it is done."""
    folder = Folder.of(arguments)
    names = folder.variants(arguments.variant)
    chosen = _chosen(arguments)
    begin(arguments)
    device = prepare_devices()
    hush_retracing()
    test = load_data(arguments)[1]
    settings = record_settings(
        test, seed=arguments.seed, chunk_size=arguments.chunk_size
    )
    with refusing():
        subjects = [_subjects(arguments, folder, name, test) for name in names]
        store = RecordStore(folder.path, settings, resume=arguments.resume)
    # A control that looks for the most harmful settings is none.
    sweep = not arguments.no_sweep and arguments.threat != "exchanged"
    for run in attack_all(
        subjects,
        chosen,
        store,
        seed=arguments.seed,
        chunk_size=arguments.chunk_size,
        sweeps=attacks.LURING_SWEEPS if sweep else None,
        num_examples_sweep=arguments.num_examples_sweep,
        engine=arguments.engine,
        provenance=provenance(
            arguments.command_line,
            seed=arguments.seed,
            device=device,
            preset=_preset_name(arguments),
            chunk_size=arguments.chunk_size,
            test_data=test.sha256,
            dataset=test.name,
        ),
    ):
        rates = luring_rates(make_frame([run], store))
        print(
            f"{arguments.threat}: {run.attack} {run.eps:g} on {run.about['variant']}, "
            f"{run.images} images: AC_M∘P {percent(rates.ac_mop.value)}, AC_M "
            f"{percent(rates.ac_m.value)}, DAC {percent(rates.dac.value)} %",
            flush=True,
        )


def _preset_name(arguments: Flags) -> str:
    name = _PRESETS[arguments.dataset]
    return name if arguments.preset == "paper" else f"{name}_cpu"


def _chosen(arguments: Flags) -> list[attacks.Attack]:
    """Returns the attacks with all radii, radius by radius within each attack."""
    names = arguments.attacks or _ATTACKS[arguments.threat]
    radii = arguments.eps or attacks.LURING_EPS[_PRESETS[arguments.dataset]]
    preset = _preset_name(arguments)
    with refusing():
        by_radius = [attacks.preset(preset, names, eps=eps) for eps in radii]
        found = [attack for same in zip(*by_radius, strict=True) for attack in same]
        for place, one in enumerate(found):
            if arguments.nb_iter and "nb_iter" in one.settings():
                steps = {"nb_iter": arguments.nb_iter}
                found[place] = dataclasses.replace(one, **steps)
        if arguments.threat == "identity":
            found = [_past_the_lure(one) for one in found]
    return found


def _past_the_lure(attack: attacks.Attack) -> attacks.Attack:
    """Returns PGD with a gradient that goes past P."""
    if attack.name != "PGD":
        raise CommandLineError(
            f"--threat=identity is for PGD alone, not for {attack.name}: no other "
            "attack has a form whose gradient goes past P"
        )
    settings = {**attack.settings(), "abort_early": False, "through": ("lure",)}
    return attacks.create("BPDA", **settings)


def _subjects(
    arguments: Flags, folder: Folder, variant: str, test: Dataset
) -> list[Subject]:
    target = folder.target()
    check_data(target, test, name="--model")
    facts = folder.facts(variant)
    weights = {"target": weights_sha256(target), "variant": facts["model"]}
    if facts["target_sha256"] != weights["target"]:
        raise CommandLineError(
            f"the variant {variant} in {folder.path} was trained before another M than "
            "this one: train it again in another --workdir"
        )
    augmented = folder.augmented(variant, target)
    surrogate = None
    if arguments.threat == "surrogate":
        surrogate = folder.load("surrogate")
        weights["surrogate"] = weights_sha256(surrogate)
    examples = choose_examples(
        test,
        [predict(model, test.images) for model in (target, augmented)],
        num_examples=arguments.num_examples,
        seed=arguments.seed,
    )
    return luring_subjects(
        arguments.threat,
        variant,
        target=target,
        augmented=augmented,
        examples=examples,
        weights=weights,
        surrogate=surrogate,
        softness=arguments.softness or SOFTNESS,
    )


def table(arguments: Flags) -> None:
    """Writes Table 1 and the data set's of Tables 2 to 4, as far as there are any."""
    folder = Folder.of(arguments)
    names = folder.variants(arguments.variant)
    test = load_data(arguments)[1]
    with refusing():
        runs = folder.runs(names)
        every = [*folder.trained(WHOLE), *names]
        clean = [_clean(name, folder, test) for name in every]
        target = folder.target()
        check_data(target, test, name="--model")
        answers = class_answers(target, test.images, "logits").argmax(axis=1)
        frame = pd.DataFrame()
        if runs:
            frame = make_frame(runs, RecordStore.open(folder.path))
    paths = write_luring_tables(
        test.name,
        clean,
        runs,
        frame,
        folder.path / "tables",
        standing=clean_accuracy(answers, test.labels, test.num_classes),
        provenance=provenance(arguments.command_line, test_data=test.sha256),
    )
    print(f"Tables: {paths.html}")


def _clean(name: str, folder: Folder, test: Dataset) -> CleanVariant:
    facts = folder.facts(name)
    if facts["test_data"] != test.sha256:
        raise CommandLineError(
            f"{name} in {folder.path} was measured on other test images than those of "
            f"--dataset={test.name}"
        )

    rates: dict[str, Any] = {
        key: Rate(round(facts[key] * len(test)), len(test))
        for key in ("test", "agree", "same")
    }
    if name == "target":
        rates |= {"agree": None, "same": None}
    told = {
        key: value
        for key, value in facts.items()
        if key not in _MEASURED and value is not None
    }
    return CleanVariant(name, **rates, parameters=facts["parameters"], facts=told)
