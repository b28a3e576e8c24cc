"""Reproduces Tables I to VI of the attractor paper.

Example:
    python recipes/tables.py --table=1 --table=4 --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --preset=cpu --workdir=runs/tables_mnist
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

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
from keras_traps.evaluation.report import write_tables
from keras_traps.evaluation.report.paper_tables import RATES_OF, VARIANTS_OF
from keras_traps.evaluation.results import Variant

Preset = Literal["paper", "cpu"]

_PRESETS = {
    ("mnist", "paper"): "table7_mnist",
    ("mnist", "cpu"): "table7_mnist_cpu",
    ("cifar10", "paper"): "table7_cifar10",
    ("cifar10", "cpu"): "table7_cifar10_cpu",
    # Not in the paper: to try the script.
    ("digits", "paper"): "digits",
    ("digits", "cpu"): "digits",
}

# A hundred steps and more for each image.
_DEAR = ["OM", "BPDA", "SPSA", "JSMA", "BLB", "CW2", "EAD"]


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    define = define_defence_flags(values)
    define_evaluation_flags(define)
    flags.DEFINE_multi_integer(
        "table",
        list(VARIANTS_OF),
        "Which table; give it once for each. The default is all of I to VI.",
        lower_bound=min(VARIANTS_OF),
        upper_bound=max(VARIANTS_OF),
        flag_values=values,
    )
    define.choice(
        "preset",
        "cpu",
        Preset,
        "The attacks' settings: the paper's, or with fewer iterations, fit for a few "
        "processor cores.",
    )
    define.texts("attacks", None, "Which attacks to run. The default is all.")
    flags.DEFINE_multi_string(
        "setting",
        [],
        "Another setting than the preset's, such as SPSA.nb_iter=500 or, as in JSON, "
        'EAD.decision_rule="EN"; give it once for each.',
        flag_values=values,
    )
    define.texts("dear", _DEAR, "The attacks that meet fewer images.")
    define.integer("num_examples_dear", 200, "How many images these meet at most.")
    define.choices(
        "integrated",
        ["integrated", "integrated_label"],
        Literal[VARIANTS_OF[5]],
        "How the integrated model of Tables V and VI gives a recovered class: by the "
        "correlations with their gradient, by a hard label, by the largest of C - W, "
        "or by depth, which keeps C's class where W says too little; give it once for "
        "each.",
    )
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Traps, attacks, writes the tables.

    Args:
        argv: The command line as it was given; left-overs are an error.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is run.
    """
    check_flags_only(argv)
    check_required(values, ["model", "workdir"])
    if (values.dataset, values.preset) not in _PRESETS:
        known = ", ".join(sorted({dataset for dataset, _ in _PRESETS}))
        raise app.UsageError(
            f"--dataset must be one of {known}. Received: {values.dataset}"
        )
    name = _PRESETS[values.dataset, values.preset]
    chosen = _with_settings(attacks.preset(name, values.attacks), values.setting)
    if unknown := [one for one in values.dear if one not in attacks.names()]:
        raise app.UsageError(
            f"--dear must be of {', '.join(attacks.names())}. Received: "
            f"{', '.join(unknown)}"
        )
    _check_rates(values)
    check_recovery_model(values, _variants(values))
    workdir = Path(values.workdir).expanduser()
    check_workdir(workdir, resume=values.resume)
    trapped = trap(values, workdir)
    evaluation = evaluate(
        trapped.defence,
        trapped.calibration,
        trapped.test,
        chosen,
        workdir=workdir,
        provenance={
            **trapped.provenance,
            "attack settings": ", ".join([name, *values.setting]),
        },
        background=trapped.train.images,
        num_examples=values.num_examples,
        limits={
            attack.name: values.num_examples_dear
            for attack in chosen
            if attack.name in values.dear
        },
        variants=_variants(values),
        seed=values.seed,
        chunk_size=values.chunk_size,
        resume=values.resume,
        engine=functools.partial(make_engine, values.engine),
    )
    paths = write_tables(evaluation, values.table, workdir / "tables")
    print(f"Tables: {paths.html}")


def _with_settings(
    chosen: Sequence[attacks.Attack], settings: Sequence[str]
) -> list[attacks.Attack]:
    changed: dict[str, dict[str, Any]] = {attack.name: {} for attack in chosen}
    try:
        for text in settings:
            where, _, value = text.partition("=")
            name, _, field = where.partition(".")
            changed[name][field] = json.loads(value)
        # All of an attack's at once: some only fit together.
        return [dataclasses.replace(one, **changed[one.name]) for one in chosen]
    except (KeyError, TypeError, ValueError) as error:
        raise app.UsageError(
            "--setting must be ATTACK.NAME=VALUE, of one of the attacks that run "
            f"({', '.join(changed)}). Received: {', '.join(settings)} ({error})"
        ) from error


def _check_rates(values: flags.FlagValues) -> None:
    for table in values.table:
        if missing := [rate for rate in RATES_OF[table] if rate not in values.fpr]:
            raise app.UsageError(
                f"--table={table} needs --fpr={' --fpr='.join(map(str, missing))}, as "
                f"in the paper. Received: --fpr={' --fpr='.join(map(str, values.fpr))}"
            )


def _variants(values: flags.FlagValues) -> tuple[Variant, ...]:
    needed = {variant for table in values.table for variant in VARIANTS_OF[table]}
    asked = ("paper", *values.integrated)
    return tuple(variant for variant in asked if variant in needed)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
