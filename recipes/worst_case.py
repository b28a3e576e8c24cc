"""Finds the worst case per image over many attacks, each on what still stands.

An image that one attack gets through with, misclassified and not flagged, is not given
to the next, so that the dear attacks at the end meet few images.

Example:
    python recipes/worst_case.py --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --preset=table7_mnist_cpu --workdir=runs/worst
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from absl import app, flags

from keras_traps import attacks
from keras_traps._files import write_atomically
from keras_traps._flags import check_flags_only
from keras_traps._recipe import (
    check_recovery_model,
    check_required,
    define_defence_flags,
    define_evaluation_flags,
    make_engine,
    trap,
)
from keras_traps.evaluation.candidates import choose_candidates
from keras_traps.evaluation.elimination import Elimination, eliminate
from keras_traps.evaluation.jobs import Job
from keras_traps.evaluation.kept_calibration import keep_calibration
from keras_traps.evaluation.protocol import record_settings
from keras_traps.evaluation.records import RecordStore, check_workdir
from keras_traps.evaluation.results import Variant
from keras_traps.models.inference import predict
from keras_traps.models.logits import logits_model


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    define = define_defence_flags(values)
    define_evaluation_flags(define)
    define.text("preset", "digits", "The attacks' settings, by a preset's name.")
    define.texts(
        "attacks", None, "Which of its attacks, in their order. The default is all."
    )
    flags.DEFINE_enum(
        "subject",
        "paper",
        ["undefended", *get_args(Variant)],
        "What is attacked: the classifier, or a variant of the trapped model.",
        flag_values=values,
    )
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Traps, attacks, and writes `worst_case.json` into the work directory.

    Args:
        argv: The command line as it was given; left-overs are an error.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is run.
    """
    check_flags_only(argv)
    check_required(values, ["model", "workdir"])
    chosen = attacks.preset(values.preset, values.attacks)
    check_recovery_model(values, [values.subject])
    workdir = Path(values.workdir).expanduser()
    check_workdir(workdir, resume=values.resume)
    trapped = trap(values, workdir)
    defence, test = trapped.defence, trapped.test
    store = RecordStore(
        workdir,
        record_settings(
            defence,
            test,
            trapped.train.images,
            seed=values.seed,
            chunk_size=values.chunk_size,
        ),
        resume=values.resume,
    )
    keep_calibration(trapped.calibration, workdir)
    candidates = choose_candidates(
        predict(defence.classifier, test.images),
        test,
        num_examples=values.num_examples,
        seed=values.seed,
        logits=logits_model(defence.classifier, defence.output),
    )
    found = eliminate(
        make_engine(
            values.engine, Job(defence, candidates, trapped.train.images, values.seed)
        ),
        chosen,
        store,
        subject=values.subject,
        chunk_size=values.chunk_size,
    )
    content = {
        **_plain(found),
        "fpr": max(defence.analyzers),
        "preset": values.preset,
        "attacks": {attack.name: attack.settings() for attack in chosen},
        "provenance": trapped.provenance,
    }
    path = workdir / "worst_case.json"
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    _print(found)
    print(f"Written: {path}")


def _plain(found: Elimination) -> dict[str, Any]:
    content = dataclasses.asdict(found)
    content["overall"] |= {
        "value": found.overall.value,
        "interval": found.overall.interval,
    }
    return content


def _print(found: Elimination) -> None:
    print(f"{'attack':<10} {'still stood':>11} {'got through':>11}")
    for name, count in found.tried.items():
        print(f"{name:<10} {count:>11} {found.felled[name]:>11}")
    value = found.overall.value or 0.0
    print(f"Any attack: {value:.2%} of {found.overall.total} images")


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
