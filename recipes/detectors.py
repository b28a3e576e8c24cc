r"""Fits detectors of others, and compares them with the traps.

`fit` makes one of them for a classifier. `table` attacks the classifier, those that a
detector has trained anew, and the trapped one, all on the same images, and says what
each detector sees of it: the attractor paper's Table III.

Example:
    python recipes/detectors.py fit --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --detector=MagNet --workdir=runs/magnet
    python recipes/detectors.py table --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --public_key=0 --detector=runs/magnet \
        --detector=runs/lid --workdir=runs/table
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_traps.commands import command_line
from keras_traps.commands.command_line import CommandLineError, Flags, path

if TYPE_CHECKING:
    import keras

    from keras_traps.datasets import Dataset
    from keras_traps.detectors import ClassifierDetector

# The names of the detectors, and of the presets that each has.
_PRESETS: dict[str, tuple[str, ...]] = {
    "FeatureSqueezing": ("mnist", "cifar10"),
    "MagNet": ("mnist", "cifar10", "cpu"),
    "LID": (),
    "Trapdoor": ("mnist", "cifar10", "cpu"),
    "TabooTrap": ("mnist", "cifar10", "cpu"),
}
_ABOUT = "about.json"
_LEARNT = "FGSM"
# So many images does LID learn from.
_MOST = 2000


def _parser() -> command_line.Parser:
    parser = command_line.Parser(__doc__, prog="detectors.py")
    about = "Fits a detector to a classifier, and sets its thresholds."
    fitting = parser.command("fit", about, fit)
    command_line.add_data(fitting)
    about = (
        "The classifier: a .keras file, or a DEEPSEC .npz state dict. Trapdoor and "
        "TabooTrap train a copy of it."
    )
    fitting.flag("model", about, command_line.file, required=True)
    command_line.add_bounds(fitting)
    about = "What the classifier returns."
    options = command_line.OUTPUTS
    fitting.flag("output", about, default="logits", options=options)
    about = "Which detector. LID learns from images that FGSM made of training images."
    fitting.flag("detector", about, options=tuple(_PRESETS), required=True)
    about = (
        "Its settings: the authors' for a data set, or shorter (cpu). LID has none. "
        "Defaults to those of --dataset, where there are any, else cpu."
    )
    fitting.flag("preset", about)
    about = "The false-positive rates to set thresholds for, on held-out test images."
    fitting.flag("fpr", about, command_line.share, default=(0.05, 0.005), several=True)
    about = "The folder of the detector; its classifier is written beside it."
    fitting.flag("workdir", about, path, required=True)
    about = "The seed of all that is drawn."
    fitting.flag("seed", about, command_line.whole, default=0)
    fitting.switch("overwrite", "Replace a detector that is there.")
    about = "Attacks, and says what each detector and the traps see of it: Table III."
    comparing = parser.command("table", about, table)
    _add_folders(comparing)
    command_line.add_traps(comparing)
    command_line.add_attacks(comparing, "all of the preset")
    command_line.add_costly(comparing)
    about = "Tries detectors as their authors did, beside published numbers."
    trying = parser.command("published", about, published)
    _add_folders(trying)
    command_line.add_data(trying)
    command_line.add_work(trying, "The seed of targets, noise and attacks.")
    about = "How many test images to attack at most."
    trying.flag("num_examples", about, command_line.count, default=100)
    return parser


def _add_folders(parser: command_line.Parser) -> None:
    about = "A folder that `fit` wrote; give it once for each detector."
    parser.add_argument(
        "--detector", action="append", type=_folder, required=True, help=about
    )


def _folder(text: str) -> Path:
    command_line.file(f"{text}/{_ABOUT}")
    return path(text)


def main(argv: Sequence[str]) -> None:
    """Runs the sub-command."""
    arguments = _parser().parse(argv)
    arguments.run(arguments)


def fit(arguments: Flags) -> None:
    """Fits, measures on test images that set no threshold, and saves."""
    preset = _preset(arguments)
    where = arguments.workdir
    if (where / _ABOUT).exists() and not arguments.overwrite:
        raise CommandLineError(f"{where} holds a detector: replace it by --overwrite")

    from keras_traps._files import make_writable, write_atomically
    from keras_traps.commands import trapping
    from keras_traps.detectors.saved import CLASSIFIER
    from keras_traps.devices import hush_retracing, prepare_devices
    from keras_traps.evaluation.metrics import rate_of
    from keras_traps.evaluation.render import percent, plain
    from keras_traps.models.forms import check_data, class_answers, for_model
    from keras_traps.models.training import save_model
    from keras_traps.provenance import provenance, weights_sha256

    device = prepare_devices()
    hush_retracing()
    train, test = trapping.load_data(arguments)
    model = trapping.load_classifier(arguments.model, arguments.dataset)
    with command_line.refusing():
        make_writable(where, name="workdir")
        check_data(model, test, name="--model")
    held, rest = trapping.threshold_images(train, test, arguments.fpr)
    began = time.monotonic()
    with command_line.refusing():
        detector, learnt = _fitted(arguments, model, train, preset)
        for fpr in arguments.fpr:
            given = for_model(detector.classifier, held.images, detector.bounds)
            detector.fit_threshold(given, fpr)
    seconds = time.monotonic() - began
    shown = for_model(detector.classifier, rest.images, detector.bounds)
    scores = detector.score(shown)
    answers = class_answers(
        detector.classifier, rest.images, detector.output, detector.bounds
    )
    found = {
        "detector": arguments.detector,
        "preset": preset,
        "learnt_from": learnt,
        "accuracy": rate_of(answers.argmax(axis=1) == rest.labels),
        "false_positives": {
            fpr: rate_of(scores > detector.threshold(fpr)) for fpr in detector.fprs
        },
        "seconds": round(seconds, 1),
        "provenance": provenance(
            arguments.command_line,
            seed=arguments.seed,
            device=device,
            model=weights_sha256(model),
            train_data=train.sha256,
            test_data=test.sha256,
            **{
                "images that set the thresholds": f"{len(held)} "
                + ("training" if held is train else "test")
                + " images"
            },
        ),
    }
    # What tells of the whole is written at last.
    save_model(detector.classifier, where / CLASSIFIER)
    detector.save(where)
    text = json.dumps(plain(found), indent=1) + "\n"
    write_atomically(where / _ABOUT, text.encode())
    print(f"{arguments.detector}: clean accuracy {percent(found['accuracy'].value)} %")
    for fpr, rate in found["false_positives"].items():
        print(f"Clean images flagged, aim {fpr:.1%}: {percent(rate.value)} %")
    print(f"Fitted in {seconds:.0f} s\nSaved to {where}")


def _preset(arguments: Flags) -> str | None:
    """Returns the preset that is meant, or says that there is none such."""
    known = _PRESETS[arguments.detector]
    wanted = arguments.preset
    if wanted is None and known:
        wanted = arguments.dataset if arguments.dataset in known else "cpu"
    if wanted is not None and wanted not in known:
        few = f"one of {', '.join(known)}" if known else "none"
        raise CommandLineError(
            f"--preset of {arguments.detector} has to be {few}, not {wanted}"
        )
    return wanted


def _fitted(
    arguments: Flags, model: keras.Model, train: Dataset, preset: str | None
) -> tuple[ClassifierDetector, str | None]:
    """Makes the detector, and tells what attack it has learnt from, if any."""
    from keras_traps import detectors
    from keras_traps._checks import UNIT
    from keras_traps.models.forms import for_model

    options: dict[str, Any] = {
        "output": arguments.output,
        "bounds": arguments.bounds,
    }
    kind: Any = detectors.DETECTORS[arguments.detector]
    if arguments.detector == "FeatureSqueezing":
        return kind(model, preset=preset, **options), None
    images = for_model(model, train.images, arguments.bounds or UNIT)
    if arguments.detector == "MagNet":
        made = kind(model, preset=preset, **options)
        return made.fit(images, seed=arguments.seed, verbose=2), None
    if arguments.detector == "LID":
        return _learn_from(arguments, kind(model, **options), images, train)
    options |= {"preset": preset, "seed": arguments.seed, "verbose": 2}
    return kind.train(model, images, train.labels, **options), None


def _learn_from(
    arguments: Flags, lid: Any, images: Any, train: Dataset
) -> tuple[ClassifierDetector, str]:
    """Fits LID on what FGSM makes of the training images that C is right on."""
    import numpy as np

    from keras_traps import attacks
    from keras_traps.commands.trapping import PRESETS
    from keras_traps.evaluation.render import settings_text
    from keras_traps.models.inference import predict
    from keras_traps.models.outputs import answers_of

    preset = PRESETS.get(arguments.dataset, "table7_cifar10")
    [attack] = attacks.preset(preset, (_LEARNT,))
    few = images[: 2 * _MOST]
    answers = answers_of(predict(lid.classifier, few), lid.output).argmax(axis=1)
    right = np.flatnonzero(answers == train.labels[: len(few)])[:_MOST]
    result = attack(
        lid.classifier,
        few[right],
        train.labels[right],
        bounds=lid.bounds,
        output=lid.output,
        seed=arguments.seed,
    )
    lid.fit(few[right], result.images, seed=arguments.seed)
    told = f"{attack.name} ({settings_text(attack.settings())})"
    return lid, f"{told} of {len(right)} training images"


def table(arguments: Flags) -> None:
    """Attacks what is watched, and writes `detectors.html` and its numbers."""
    from keras_traps._files import keep_settings
    from keras_traps.commands import trapping
    from keras_traps.detectors import AtRates
    from keras_traps.evaluation.detection import Watched, compare_detectors
    from keras_traps.evaluation.report import write_detectors
    from keras_traps.models.forms import for_model

    trapping.begin(arguments)
    train, test = trapping.load_data(arguments)
    chosen = trapping.choose_attacks(arguments)
    trapped = trapping.trap(arguments, train, test)
    defence, fprs = trapped.defence, arguments.fpr
    held, _ = trapping.threshold_images(train, test, fprs)
    watched, told = [], {}
    for folder in arguments.detector:
        one = load_detector(folder, test, "--detector")
        about = json.loads((folder / _ABOUT).read_text("utf-8"))
        told[folder.name] = about["provenance"]["command"]
        if about["learnt_from"]:
            told[folder.name] += f" (learnt from {about['learnt_from']})"
        if not hasattr(one, "train"):
            _check_same(folder, one, defence.classifier)
        given = for_model(one.classifier, held.images, one.bounds)
        watched.append(
            Watched(
                folder.name,
                about["detector"],
                one.classifier,
                AtRates(one, given, fprs),
                one.output,
                one.bounds,
            )
        )
    given = for_model(defence.classifier, held.images, defence.bounds)
    judge = AtRates(defence.main_analyzer, given, fprs)
    watched.append(
        Watched("traps", "Attractors", defence.trapped, judge, "scores", defence.bounds)
    )
    costly = {one.name for one in chosen} & {*arguments.costly}
    settings = ", ".join([trapping.preset_name(arguments), *arguments.setting])
    with command_line.refusing():
        constants = trapped.calibration.to_dict()
        keep_settings(arguments.workdir / "calibration.json", constants, resume=True)
        found = compare_detectors(
            watched,
            chosen,
            trapped.test,
            workdir=arguments.workdir,
            num_examples=arguments.num_examples,
            limits=dict.fromkeys(costly, arguments.num_examples_costly),
            background=train.images,
            seed=arguments.seed,
            chunk_size=arguments.chunk_size,
            engine=arguments.engine,
            provenance={
                **trapped.provenance,
                "attack settings": settings,
                "detectors": told,
            },
        )
    paths = write_detectors(found, arguments.workdir)
    for row in found.rows:
        for fpr, rate in row["any"].items():
            share = f"{rate.value:.1%}"
            print(f"{row['detector']}: at {fpr:.1%}, some attack gets through: {share}")
    print(f"Written: {paths.html}")


def published(arguments: Flags) -> None:
    """Tries each detector as its authors did."""
    import detectors_published

    from keras_traps.devices import hush_retracing, prepare_devices

    prepare_devices()
    hush_retracing()
    # Which images of a folder are resized for.
    arguments.model = arguments.detector[0] / "classifier.keras"
    detectors_published.published(arguments, load_detector)


def load_detector(folder: Path, test: Dataset, flag: str) -> ClassifierDetector:
    """Loads a detector with its classifier, which has to be one of these images."""
    from keras_traps import detectors
    from keras_traps.models.forms import check_data

    with command_line.refusing(flag):
        found = detectors.load(folder)
        check_data(found.classifier, test)
    return found


def _check_same(
    folder: Path, detector: ClassifierDetector, classifier: keras.Model
) -> None:
    """Refuses a detector that looks at another classifier than is trapped."""
    from keras_traps.provenance import weights_sha256

    if weights_sha256(detector.classifier) != weights_sha256(classifier):
        raise CommandLineError(
            f"--detector: the one in {folder} is for another classifier than --model: "
            "fit it anew"
        )


if __name__ == "__main__":
    command_line.run(main)
