r"""Evaluates classifiers and detectors as a reviewer would.

`leaderboard` attacks several contenders, by all that attackers may know of them.
`worst_case` gives each attack the images that no attack before it got through with,
misclassified and not flagged, so that the costly ones at the end meet few.
`binarize` tests an attack itself, where it is known that there is something to find.

Example:
    python recipes/robustness.py leaderboard --dataset=mnist --data_dir=data \
        --contender=undefended:plain:deepsec_mnist.npz \
        --contender=traps:traps:deepsec_mnist.npz --eps=0.3 --workdir=runs/board
    python recipes/robustness.py worst_case --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --workdir=runs/worst
    python recipes/robustness.py binarize --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --eps=0.3 --workdir=runs/binary
"""

import argparse
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_traps.commands import command_line
from keras_traps.commands.command_line import CommandLineError, Flags, number

if TYPE_CHECKING:
    import keras

    from keras_traps.datasets import Dataset
    from keras_traps.detectors import Detector
    from keras_traps.evaluation.leaderboard import Contender

# Of how many of their own images attackers extract a watermark, and set thresholds.
_EXTRACTED_FROM, _CLEAN = 10, 500
_KINDS = ("plain", "traps", "luring", "detector")


class _Named(NamedTuple):
    """A contender as the command line names it."""

    name: str
    kind: str
    path: Path
    calibration: Path | None


def _contender(text: str) -> _Named:
    name, kind, *paths = text.split(":")
    if kind not in _KINDS or not 1 <= len(paths) <= 1 + (kind == "traps"):
        raise argparse.ArgumentTypeError(
            f"expected NAME:KIND:PATH of a kind of {', '.join(_KINDS)}, not {text}"
        )
    found = [command_line.path(each) for each in paths]
    folders = {
        "luring": ("target.keras", "lure.keras"),
        "detector": ("detector.json", "classifier.keras"),
    }
    if kind in folders:
        for needed in folders[kind]:
            command_line.file(str(found[0] / needed))
    else:
        found = [command_line.file(str(each)) for each in found]
    return _Named(name, kind, found[0], found[1] if found[1:] else None)


def _substitute(text: str) -> tuple[str, Path]:
    name, colon, path = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"expected NAME:PATH, not {text}")
    return name, command_line.file(path)


def _parser() -> command_line.Parser:
    parser = command_line.Parser(__doc__, prog="robustness.py")
    about = "Attacks several contenders by all that attackers may know."
    board = parser.command("leaderboard", about, leaderboard)
    command_line.add_data(board)
    about = (
        "NAME:KIND:PATH, given once for each: `plain` and `traps` name a classifier of "
        "logits, alone or to be trapped (after another colon its calibration.json, if "
        "there is one); `luring` a folder with target.keras and lure.keras, which "
        "makes two contenders, M alone and M where M∘P agrees; `detector` one that "
        "`detectors.py fit` wrote, on its own classifier."
    )
    board.add_argument(
        "--contender", action="append", type=_contender, required=True, help=about
    )
    about = (
        "NAME:PATH of a classifier of logits, all that some attackers have; "
        "may be given several times. Who extracts the traps' watermark has the first."
    )
    board.add_argument(
        "--substitute", action="append", type=_substitute, default=[], help=about
    )
    about = "The L-infinity radii, as shares of the range of a pixel."
    radius = number(above=0.0, below=1.0)
    board.flag("eps", about, radius, several=True, required=True)
    about = "Which attacks of the preset `leaderboard`. Defaults to all."
    board.flag("attacks", about, several=True)
    about = "The false-positive rates to set thresholds for."
    board.flag("fpr", about, command_line.share, default=(0.05, 0.005), several=True)
    board.flag(
        "public_key",
        "The number to make the traps' keys of; they are public, as in any experiment "
        "that others are to repeat.",
        command_line.whole,
        default=0,
    )
    command_line.add_work(board, "The seed of targets and attacks.")
    command_line.add_running(board)

    about = "Finds the worst case per image, each attack on what still stands."
    worst = parser.command("worst_case", about, worst_case)
    command_line.add_traps(worst)
    command_line.add_attacks(worst, "all of the preset, in its order")
    about = "What is attacked: the classifier, or a variant of the trapped model."
    subjects = ("undefended", *command_line.VARIANTS)
    worst.flag("subject", about, default="paper", options=subjects)

    about = "Tests attacks where there is known to be something to find."
    binary = parser.command("binarize", about, binarize)
    command_line.add_traps(binary)
    about = "Which attacks of the preset `leaderboard`. Defaults to PGD,APGD."
    binary.flag("attacks", about, default=("PGD", "APGD"), several=True)
    command_line.add_running(binary)
    about = "The L-infinity radius of all attacks."
    binary.flag("eps", about, radius, required=True)
    about = "How many points of the first class are drawn around each image."
    binary.flag("num_inner", about, command_line.count, default=999)
    return parser


def main(argv: Sequence[str]) -> None:
    """Runs the sub-command."""
    arguments = _parser().parse(argv)
    arguments.run(arguments)


def leaderboard(arguments: Flags) -> None:
    """Attacks the contenders, and writes `leaderboard.html` and its numbers."""
    from keras_traps import attacks
    from keras_traps.commands import trapping
    from keras_traps.devices import hush_retracing, prepare_devices
    from keras_traps.evaluation.leaderboard import evaluate
    from keras_traps.evaluation.records import check_workdir
    from keras_traps.evaluation.report import write_leaderboard
    from keras_traps.provenance import provenance

    with command_line.refusing():
        check_workdir(arguments.workdir, resume=arguments.resume)
        chosen = [
            attack
            for eps in arguments.eps
            for attack in attacks.preset("leaderboard", arguments.attacks, eps=eps)
        ]
    device = prepare_devices()
    hush_retracing()
    first = arguments.contender[0]
    # Which images of a folder are resized for.
    files = {"luring": "target.keras", "detector": "classifier.keras"}
    arguments.model = first.path / files.get(first.kind, "")
    train, test = trapping.load_data(arguments)
    held, rest = trapping.threshold_images(train, test, arguments.fpr)
    contenders = list(_contenders(arguments, train, held))
    facts = provenance(
        arguments.command_line,
        seed=arguments.seed,
        device=device,
        train_data=train.sha256,
        test_data=test.sha256,
    )
    with command_line.refusing():
        found = evaluate(
            contenders,
            chosen,
            rest.images,
            rest.labels,
            workdir=arguments.workdir,
            num_examples=arguments.num_examples,
            seed=arguments.seed,
            chunk_size=arguments.chunk_size,
            engine=arguments.engine,
            provenance=facts,
        )
    paths = write_leaderboard(found, arguments.workdir)
    print(f"Written: {paths.html}")


def _contenders(
    arguments: Flags, train: "Dataset", held: "Dataset"
) -> "Iterator[Contender]":
    """Loads, traps, and sets thresholds on the images that are held out for that."""
    from keras_traps import ForensicAnalyzer, attractors, calibrate, detectors
    from keras_traps.commands.trapping import (
        load_classifier,
        load_model,
        read_calibration,
    )
    from keras_traps.detectors import AtRates
    from keras_traps.evaluation.leaderboard import Contender
    from keras_traps.luring.schemes import DisagreementDetector
    from keras_traps.luring.training import join
    from keras_traps.models.forms import check_data, for_model
    from keras_traps.ops import Key

    others = {
        name: load_classifier(path, arguments.dataset)
        for name, path in arguments.substitute
    }
    for name, kind, path, calibration in arguments.contender:
        if kind == "luring":
            target = load_model(path / "target.keras", "--contender")
            lured = join(load_model(path / "lure.keras", "--contender"), target)
            agree = DisagreementDetector(target, lured)
            for fpr in arguments.fpr:
                agree.fit_threshold(held.images, fpr)
            both = functools.partial(
                Contender, model=lured, answers=target, substitutes=others
            )
            yield both(f"{name}-target")
            yield both(f"{name}-agreement", detector=agree)
            continue
        if kind == "detector":
            with command_line.refusing("--contender"):
                one = detectors.load(path)
                check_data(one.classifier, held)
            given = for_model(one.classifier, held.images, one.bounds)
            yield Contender(
                name,
                one.classifier,
                one.output,
                one.bounds,
                detector=AtRates(one, given, arguments.fpr),
                substitutes=others,
            )
            continue
        classifier = load_classifier(path, arguments.dataset)
        if kind == "plain":
            yield Contender(name, classifier, substitutes=others)
            continue
        key = Key.from_seed(arguments.public_key)
        with command_line.refusing():
            settings = (
                calibrate(classifier, train.images, key=key, output="logits")
                if calibration is None
                else read_calibration(calibration, key)
            ).settings
        trapped = attractors.inject(classifier, settings)
        analyzer = ForensicAnalyzer(trapped).fit(held.images, fpr=max(arguments.fpr))
        yield Contender(
            name,
            trapped,
            "scores",
            detector=AtRates(analyzer, held.images, arguments.fpr),
            known=attractors.classifier_of(trapped),
            substitutes=others,
            rebuilt=_rebuilt(trapped, next(iter(others.values()), None), train),
        )


def _rebuilt(
    trapped: "keras.Model", substitute: "keras.Model | None", train: "Dataset"
) -> "tuple[keras.Model, Detector] | None":
    """Returns what gradients and a classifier of one's own make of traps."""
    from keras_traps import attractors

    if substitute is None:
        return None
    watermark = attractors.extract(trapped, train.images[:_EXTRACTED_FROM])
    clean = train.images[:_CLEAN]
    return (
        attractors.with_slope_of(trapped, substitute),
        attractors.RebuiltAnalyzer(watermark, substitute, clean),
    )


def worst_case(arguments: Flags) -> None:
    """Traps, attacks, and writes `worst_case.json` into the work directory."""
    from keras_traps.commands import trapping
    from keras_traps.evaluation.metrics import clean_accuracy
    from keras_traps.evaluation.render import percent
    from keras_traps.evaluation.report import write_worst_case
    from keras_traps.evaluation.runner import worst_case
    from keras_traps.evaluation.subjects import attractor_subjects, choose_examples
    from keras_traps.evaluation.warnings import find_doubts
    from keras_traps.models.forms import class_answers
    from keras_traps.models.logits import logits_model

    trapping.begin(arguments)
    train, test = trapping.load_data(arguments)
    chosen = trapping.choose_attacks(arguments)
    trapped = trapping.trap(arguments, train, test)
    test, defence = trapped.test, trapped.defence
    store = trapping.open_store(arguments, trapped, train, test)
    model, output, bounds = defence.classifier, defence.output, defence.bounds
    outputs = class_answers(model, test.images, output, bounds)
    with command_line.refusing():
        examples = choose_examples(
            test,
            [outputs],
            num_examples=arguments.num_examples,
            seed=arguments.seed,
            logits=logits_model(model, output),
            bounds=bounds,
        )
    [subject] = attractor_subjects(defence, examples, [arguments.subject])
    found = worst_case(
        subject,
        chosen,
        store,
        background=train.images,
        seed=arguments.seed,
        chunk_size=arguments.chunk_size,
        engine=arguments.engine,
    )
    facts = {**trapped.provenance, "attack settings": trapping.preset_name(arguments)}
    fpr, workdir = max(defence.analyzers), arguments.workdir
    clean = clean_accuracy(outputs.argmax(axis=1), test.labels, outputs.shape[1])
    told = find_doubts(subject, found)
    paths = write_worst_case(
        found, chosen, workdir, fpr=fpr, clean=clean, warnings=told, provenance=facts
    )
    print(f"{'attack':<10} {'still stood':>11} {'got through':>11}")
    for name, count in found.tried.items():
        print(f"{name:<10} {count:>11} {found.felled[name]:>11}")
    value = percent(found.overall.value)
    print(f"Any attack: {value} % of {found.overall.total} images")
    for warning in told:
        print(f"Warning: {warning}")
    print(f"Written: {paths.json}")


def binarize(arguments: Flags) -> None:
    """Tests attacks on the classifier and its traps; writes `binarization.json`."""
    from keras_traps import attacks, attractors
    from keras_traps._files import write_atomically
    from keras_traps.commands import trapping
    from keras_traps.evaluation.binarization import binarization_test
    from keras_traps.evaluation.render import plain
    from keras_traps.models.forms import for_model

    trapping.begin(arguments)
    with command_line.refusing():
        known = attacks.preset("leaderboard", arguments.attacks, eps=arguments.eps)
    if evading := [one.name for one in known if one.needs_detector]:
        raise CommandLineError(f"--attacks: no detector watches {', '.join(evading)}")
    train, test = trapping.load_data(arguments)
    trapped = trapping.trap(arguments, train, test)
    model, settings = trapped.defence.classifier, trapped.calibration.settings
    if settings.output != "logits":
        raise CommandLineError("--model has to return logits")
    images = trapped.test.images[: arguments.num_examples]
    subjects: dict[str, dict[str, Any]] = {
        "undefended": {},
        "traps": {
            "defend": functools.partial(attractors.inject, settings=settings),
            "output": "scores",
        },
    }
    rows: list[dict[str, Any]] = []
    print(f"{'attack':<14} {'subject':<11} {'found':>6} {'random':>7} {'images':>7}")
    for attack in known:
        own = attack.settings()
        for name, defence in subjects.items():
            found = binarization_test(
                model,
                attack,
                for_model(model, images, settings.bounds),
                eps=arguments.eps,
                bounds=settings.bounds,
                num_inner=arguments.num_inner,
                seed=arguments.seed,
                **defence,
            )
            what = {"attack": attack.name, "settings": own, "subject": name}
            rows.append({**what, "found": found})
            share, lucky = (rate.value or 0.0 for rate in (found.attack, found.random))
            print(
                f"{attack.name:<14} {name:<11} {share:>6.1%} {lucky:>7.1%} "
                f"{found.attack.total:>7}"
            )
    facts = {**trapped.provenance, "num_inner": arguments.num_inner}
    told = json.dumps(plain({"rows": rows, "provenance": facts}), indent=1)
    path = arguments.workdir / "binarization.json"
    write_atomically(path, f"{told}\n".encode())
    print(f"Written: {path}")


if __name__ == "__main__":
    command_line.run(main)
