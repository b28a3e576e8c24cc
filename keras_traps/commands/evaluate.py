"""Traps a classifier, attacks it, and writes a report or the paper's tables."""

from collections.abc import Sequence
from typing import Any

from keras_traps.commands import command_line
from keras_traps.commands.command_line import CommandLineError, Flags, Parser

_NINE = ("FGSM", "RFGSM", "BIM", "PGD", "UMIFGSM", "LLC", "RLLC", "ILLC", "TMIFGSM")

_REPORTED = ("paper", "margin", "raw_sum", "integrated")


def add_command(parser: Parser, name: str) -> None:
    """Adds the sub-command, under the name that the script has for it."""
    about = "Traps, calibrates, attacks, and writes a report, or with --table tables."
    attack = parser.command(name, about, evaluate)
    command_line.add_traps(attack)
    usual = f"{','.join(_NINE)}, and with --table to all of the preset"
    command_line.add_attacks(attack, usual)
    command_line.add_costly(attack)
    about = (
        f"How the attacker sees the trapped model. Defaults to {','.join(_REPORTED)}, "
        "and with --table to what the tables need."
    )
    attack.flag("variant", about, options=command_line.VARIANTS, several=True)
    about = "Which of the paper's tables to write, I to VI, in place of a report."
    attack.flag("table", about, options=tuple("123456"), default=(), several=True)


def evaluate(arguments: Flags) -> None:
    """Runs the sub-command."""
    from keras_traps.commands import trapping
    from keras_traps.evaluation import evaluate as evaluation
    from keras_traps.evaluation.paper import RATES_OF, VARIANTS_OF
    from keras_traps.evaluation.report import write_report, write_tables

    tables = [int(number) for number in arguments.table]
    rates = {rate for number in tables for rate in RATES_OF[number]}
    if missing := sorted(rates - {*arguments.fpr}):
        needed = ",".join(map(str, missing))
        raise CommandLineError(f"these tables need --fpr={needed} too, as in the paper")
    variants: Sequence[Any] = arguments.variant or _REPORTED
    if tables and arguments.variant is None:
        those = {variant for number in tables for variant in VARIANTS_OF[number]}
        variants = [name for name in command_line.VARIANTS if name in those]
    trapping.begin(arguments)
    train, test = trapping.load_data(arguments)
    chosen = trapping.choose_attacks(arguments, None if tables else _NINE)
    trapped = trapping.trap(arguments, train, test)
    test = trapped.test
    print("The traps:", *trapped.calibration.explanation, sep="\n   ", flush=True)
    store = trapping.open_store(arguments, trapped, train, test)
    settings = ", ".join([trapping.preset_name(arguments), *arguments.setting])
    costly = {one.name for one in chosen} & {*arguments.costly}
    found = evaluation.evaluate(
        trapped.defence,
        trapped.calibration,
        test,
        chosen,
        store,
        provenance={**trapped.provenance, "attack settings": settings},
        background=train.images,
        num_examples=arguments.num_examples,
        limits=dict.fromkeys(costly, arguments.num_examples_costly),
        variants=variants,
        seed=arguments.seed,
        chunk_size=arguments.chunk_size,
        engine=arguments.engine,
    )
    _print(found.rows)
    if tables:
        paths = write_tables(found, tables, arguments.workdir / "tables")
        print(f"Tables: {paths.html}")
    else:
        paths = write_report(found, arguments.workdir / "report")
        print(f"Report: {paths.html}")


def _print(rows: list[dict[str, Any]]) -> None:
    """Prints what M, as the paper has it, makes of each attack."""
    import pandas as pd

    cells = {}
    for row in rows:
        if row["variant"] == "paper":
            shares = {
                "fools C": row["success_classifier"],
                "fools M": row["success_trapped"],
                "detected": row["detection"][0]["detected"],
            }
            for each in row["detection"]:
                shares[f"unnoticed at {each['fpr']:.1%}"] = each["overall"]
            cells[row["attack"]] = {
                name: None if rate is None else rate.value
                for name, rate in shares.items()
            }
    table = pd.DataFrame.from_dict(cells, orient="index", dtype=float)
    if cells:
        print(table.to_string(float_format="{:.1%}".format, na_rep="-"))
