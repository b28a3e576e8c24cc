r"""Traps a classifier, attacks it, and writes a report or the paper's tables.

Example:
    python recipes/attractors.py attack --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --workdir=runs/mnist
    python recipes/attractors.py attack --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --workdir=runs/tables_mnist --table=1,2,3,4,5,6
    python recipes/attractors.py summary --output=attractors_mnist.md \
        --report=runs/mnist/report/report.json --report=runs/mnist_1/report/report.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import command_line
from command_line import CommandLineError, count
from summary import write_summary

if TYPE_CHECKING:
    from keras_traps.evaluation.evaluate import Evaluation

# The sign-gradient attacks, which take seconds.
_NINE = ("FGSM", "RFGSM", "BIM", "PGD", "UMIFGSM", "LLC", "RLLC", "ILLC", "TMIFGSM")

# A hundred steps and more for each image.
_COSTLY = ("OM", "BPDA", "SPSA", "JSMA", "BLB", "CW2", "EAD")

_REPORTED = ("paper", "margin", "raw_sum", "integrated")


def _parser() -> command_line.Parser:
    parser = command_line.Parser(__doc__, prog="attractors.py")
    about = "Traps, calibrates, attacks, and writes a report, or with --table tables."
    attack = parser.command("attack", about, _attack)
    command_line.add_traps(attack)
    command_line.add_attacks(
        attack, f"{','.join(_NINE)}, and with --table to all of the preset"
    )
    attack.flag(
        "costly", "The attacks that meet fewer images.", default=_COSTLY, several=True
    )
    attack.flag(
        "num_examples_costly",
        "How many images these meet at most.",
        count,
        default=200,
    )
    attack.flag(
        "variant",
        "How the attacker sees the trapped model. Defaults to "
        f"{','.join(_REPORTED)}, and with --table to what the tables need.",
        options=command_line.VARIANTS,
        several=True,
    )
    attack.flag(
        "table",
        "Which of the paper's Tables I to VI to write, 1 to 6, in place of a report.",
        options=("1", "2", "3", "4", "5", "6"),
        default=(),
        several=True,
    )
    about = "Puts the reports of several seeds into one table."
    summary = parser.command("summary", about, write_summary)
    summary.flag(
        "report",
        "A report.json; one for each seed.",
        command_line.file,
        several=True,
        required=True,
    )
    summary.flag(
        "output", "The Markdown file to write.", command_line.path, required=True
    )
    return parser


def main(argv: Sequence[str]) -> None:
    """Runs the sub-command."""
    arguments = _parser().parse(argv)
    arguments.run(arguments)


def _attack(arguments: argparse.Namespace) -> None:
    import trapping

    from keras_traps.evaluation.evaluate import evaluate
    from keras_traps.evaluation.paper import RATES_OF, VARIANTS_OF
    from keras_traps.evaluation.report import write_report, write_tables

    tables = [int(number) for number in arguments.table]
    rates = {rate for number in tables for rate in RATES_OF[number]}
    if missing := sorted(rates - {*arguments.fpr}):
        raise CommandLineError(
            f"these tables need --fpr={','.join(map(str, missing))} too, as in the "
            "paper"
        )
    variants: Sequence[Any] = arguments.variant or _REPORTED
    if tables and arguments.variant is None:
        needed = {variant for number in tables for variant in VARIANTS_OF[number]}
        variants = [name for name in command_line.VARIANTS if name in needed]
    trapping.begin(arguments)
    train, test = trapping.load_data(arguments)
    chosen = trapping.choose_attacks(arguments, None if tables else _NINE)
    trapped = trapping.trap(arguments, train, test)
    print("The traps:", *trapped.calibration.explanation, sep="\n   ", flush=True)
    trapping.open_store(arguments, trapped)
    name = trapping.preset_name(arguments)
    found = evaluate(
        trapped.defence,
        trapped.calibration,
        trapped.test,
        chosen,
        workdir=arguments.workdir,
        provenance={
            **trapped.provenance,
            "attack settings": ", ".join([name, *arguments.setting]),
        },
        background=trapped.train.images,
        num_examples=arguments.num_examples,
        limits={
            one.name: arguments.num_examples_costly
            for one in chosen
            if one.name in arguments.costly
        },
        variants=variants,
        seed=arguments.seed,
        chunk_size=arguments.chunk_size,
        # The records are opened already, as --resume allows.
        resume=True,
        engine=arguments.engine,
    )
    _print(found)
    if tables:
        paths = write_tables(found, tables, arguments.workdir / "tables")
        print(f"Tables: {paths.html}")
    else:
        paths = write_report(found, arguments.workdir / "report")
        print(f"Report: {paths.html}")


def _print(found: Evaluation) -> None:
    """Prints what M, as the paper has it, makes of each attack."""
    rows = [row for row in found.rows if row["variant"] == "paper"]
    if not rows:
        return
    rates = [f"unnoticed at {each['fpr']:.1%}" for each in rows[0]["detection"]]
    heads = ["attack", "fools C", "fools M", "detected", *rates]
    widths = [max(10, len(head)) for head in heads]
    print(*(f"{head:<{width}}" for head, width in zip(heads, widths, strict=True)))
    for row in rows:
        detection = row["detection"]
        shares = [row["success_classifier"], row["success_trapped"]]
        shares += [detection[0]["detected"], *(each["overall"] for each in detection)]
        words = [
            "-" if rate is None or rate.value is None else f"{rate.value:.1%}"
            for rate in shares
        ]
        cells = zip([row["attack"], *words], widths, strict=True)
        print(*(f"{word:<{width}}" for word, width in cells))


if __name__ == "__main__":
    command_line.run(main)
