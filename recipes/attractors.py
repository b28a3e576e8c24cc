"""Traps a classifier, attacks it, and writes a report.

Example:
    python recipes/attractors.py --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --workdir=runs/mnist
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from keras_traps import attacks
from keras_traps._flags import check_flags_only
from keras_traps._recipe import (
    check_recovery_model,
    check_required,
    define_defence_flags,
    define_evaluation_flags,
    make_engine,
    trap,
)
from keras_traps.evaluation.evaluate import evaluate
from keras_traps.evaluation.records import check_workdir
from keras_traps.evaluation.report import write_report
from keras_traps.evaluation.results import Variant

_PRESETS = {"mnist": "table7_mnist", "cifar10": "table7_cifar10", "digits": "digits"}

# The sign-gradient attacks; recipes/tables.py runs all.
_NINE = ["FGSM", "RFGSM", "BIM", "PGD", "UMIFGSM", "LLC", "RLLC", "ILLC", "TMIFGSM"]


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    define = define_defence_flags(values)
    define_evaluation_flags(define)
    define.text(
        "preset", None, "The attacks' settings. The default depends on the data set."
    )
    define.texts("attacks", _NINE, "Which attacks of the preset to run.")
    define.choices(
        "variant",
        ["paper", "margin", "raw_sum", "integrated"],
        Variant,
        "How the attacker sees the trapped model; give it once for each.",
    )
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Traps, attacks, reports.

    Args:
        argv: The command line as it was given; left-overs are an error.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is run.
    """
    check_flags_only(argv)
    check_required(values, ["model", "workdir"])
    chosen = attacks.preset(_preset(values), values.attacks)
    check_recovery_model(values, values.variant)
    workdir = Path(values.workdir).expanduser()
    check_workdir(workdir, resume=values.resume)
    trapped = trap(values, workdir)
    evaluation = evaluate(
        trapped.defence,
        trapped.calibration,
        trapped.test,
        chosen,
        workdir=workdir,
        provenance=trapped.provenance,
        background=trapped.train.images,
        num_examples=values.num_examples,
        variants=tuple(values.variant),
        seed=values.seed,
        chunk_size=values.chunk_size,
        resume=values.resume,
        engine=functools.partial(make_engine, values.engine),
    )
    paths = write_report(evaluation, workdir / "report")
    print(f"Report: {paths.html}")


def _preset(values: flags.FlagValues) -> str:
    if values.preset is None and values.dataset not in _PRESETS:
        raise app.UsageError(
            f"--preset is required for {values.dataset}: one of "
            f"{', '.join(attacks.PRESETS)}."
        )
    return str(values.preset or _PRESETS[values.dataset])


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
