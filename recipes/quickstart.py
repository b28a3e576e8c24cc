"""Trains, traps, attacks and defends a classifier of handwritten digits.

Everything is built in: no download, a minute or two on two CPU cores.

Example:
    python recipes/quickstart.py
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
from absl import app, flags

from keras_traps import attacks, calibrate, datasets
from keras_traps._files import write_atomically
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.evaluation.defence import defend
from keras_traps.evaluation.evaluate import evaluate
from keras_traps.evaluation.report import write_report
from keras_traps.evaluation.results import Evaluation
from keras_traps.models import digits_cnn, train
from keras_traps.provenance import provenance, weights_sha256
from keras_traps.rates import Rate

_EPOCHS = 20
_SMOKE_EPOCHS = 3
_QUICK = (
    *("FGSM", "RFGSM", "BIM", "PGD", "UMIFGSM", "DeepFool"),
    *("LLC", "RLLC", "ILLC", "TMIFGSM", "JSMA"),
)


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    flags.DEFINE_string(
        "workdir",
        "runs/quickstart",
        "The folder for the classifier, the records and the report. A second run goes "
        "on from what is there.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "all_attacks",
        False,
        "Whether to run the dear attacks too: UAP, OM, BPDA, SPSA, BLB, CW2 and EAD.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_examples",
        500,
        "How many test images to attack at most.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed", 0, "The seed of all randomness.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_bool(
        "smoke",
        False,
        "Whether to train briefly and run two attacks only, to try the script.",
        flag_values=values,
    )
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the demonstration.

    Args:
        argv: The command line; left-overs are an error.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong, or the work directory has a
            classifier that was trained otherwise. Nothing is run.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {' '.join(argv[1:])}")
    if values.smoke and values.all_attacks:
        raise app.UsageError("--smoke runs two attacks: leave out --all_attacks.")
    workdir = Path(values.workdir).expanduser()
    workdir.mkdir(parents=True, exist_ok=True)
    device = prepare_devices()
    hush_retracing()
    train_data, test_data = (
        datasets.load("digits", split) for split in ("train", "test")
    )

    print("1. A classifier of handwritten digits")
    classifier = _classifier(train_data, workdir / "classifier.keras", values)
    print("2. Its traps: three lines")
    # Of 64 pixels few have the small step, and a single step of 76 grey levels throws
    # them to another period: they get a small say.
    calibration = calibrate(
        classifier,
        train_data.images,
        output="logits",
        seed=values.seed,
        small_step_share=0.1,
    )
    defence = defend(classifier, calibration.settings, train_data.images)
    for sentence in calibration.explanation:
        print(f"   {sentence}")
    print("3. The attacks")
    evaluation = evaluate(
        defence,
        calibration,
        test_data,
        _attacks(values),
        workdir=workdir,
        provenance=provenance(
            sys.argv,
            seed=values.seed,
            device=device,
            classifier=weights_sha256(classifier),
            test_data=test_data.sha256,
        ),
        background=train_data.images,
        num_examples=values.num_examples,
        seed=values.seed,
        resume=True,
    )
    print("4. What came of it")
    _print_table(evaluation)
    paths = write_report(evaluation, workdir / "report")
    print(f"Open the report, with pictures: {paths.html}")


def _attacks(values: flags.FlagValues) -> list[attacks.Attack]:
    if values.all_attacks:
        return attacks.preset("digits")
    return attacks.preset("digits", ["FGSM", "PGD"] if values.smoke else _QUICK)


def _classifier(
    data: datasets.Dataset, path: Path, values: flags.FlagValues
) -> keras.Model:
    """Loads the classifier of an earlier run, or trains one."""
    wanted = {
        "epochs": _SMOKE_EPOCHS if values.smoke else _EPOCHS,
        "seed": values.seed,
    }
    beside = path.with_suffix(".json")
    if path.exists():
        _check_same(beside, wanted)
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(values.seed)
    model = digits_cnn()
    train(
        model,
        data,
        epochs=wanted["epochs"],
        batch_size=32,
        learning_rate=2e-3,
        seed=values.seed,
        verbose=2,
    )
    # First: it says nothing without the classifier, which would be of unknown making
    # without it.
    write_atomically(beside, json.dumps(wanted, indent=1).encode())
    unfinished = path.with_name("unfinished.keras")
    model.save(unfinished)
    unfinished.replace(path)
    return model


def _check_same(beside: Path, wanted: dict[str, int]) -> None:
    """Refuses a classifier that was trained with other settings, or who knows which."""
    found = json.loads(beside.read_text("utf-8")) if beside.exists() else {}
    if found != wanted:
        raise app.UsageError(
            f"The classifier in {beside.parent} was trained with {_listed(found)}; "
            f"asked for are {_listed(wanted)}. Delete that folder or choose another "
            "--workdir."
        )


def _listed(settings: dict[str, int]) -> str:
    words = [f"{name} {value}" for name, value in settings.items()]
    return ", ".join(words) or "what it does not tell"


def _print_table(evaluation: Evaluation) -> None:
    lowest = min(evaluation.thresholds)
    print(
        f"   {'attack':<9}{'fools C':>9}{'fools M':>9}{'detected':>10}{'unnoticed':>11}"
        f"{'unnoticed':>11}"
    )
    print(f"   {'':<37}{'at 5 % FPR':>11}{f'at {lowest:.1%}':>11}")
    for row in evaluation.rows:
        if row.variant == "paper":
            first, last = row.detection[0], row.detection[-1]
            print(
                f"   {row.attack:<9}{_percent(row.success_classifier):>9}"
                f"{_percent(row.success_trapped):>9}{_percent(first.detected):>10}"
                f"{_percent(first.overall):>11}{_percent(last.overall):>11}"
            )


def _percent(rate: Rate | None) -> str:
    return "-" if rate is None or rate.value is None else f"{rate.value:.1%}"


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
