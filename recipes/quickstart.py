"""Trains, traps, attacks and defends a classifier of handwritten digits.

Everything is built in: no download, a minute or two on two CPU cores. It runs two other
recipes, with commands that it shows.

Example:
    python recipes/quickstart.py
"""

import shlex
from collections.abc import Callable, Sequence

import attractors
import train

from keras_traps.commands import command_line
from keras_traps.commands.command_line import (
    CommandLineError,
    count,
    path,
    refusing,
    whole,
)

_QUICK = "FGSM,RFGSM,BIM,PGD,UMIFGSM,DeepFool,LLC,RLLC,ILLC,TMIFGSM,JSMA"
_COSTLY = "UAP,OM,BPDA,SPSA,BLB,CW2,EAD"


def _parser() -> command_line.Parser:
    parser = command_line.Parser(__doc__, prog="quickstart.py")
    about = (
        "The folder for the classifier, the records and the report. A second run goes "
        "on from what is there."
    )
    parser.flag("workdir", about, path, default=path("runs/quickstart"))
    parser.switch("all_attacks", f"Run the costly attacks too: {_COSTLY}.")
    about = "How many test images to attack at most."
    parser.flag("num_examples", about, count, default=500)
    parser.flag("seed", "The seed of all randomness.", whole, default=0)
    parser.switch("smoke", "Train briefly and run two attacks, to try the script.")
    return parser


def main(argv: Sequence[str]) -> None:
    """Runs the demonstration."""
    arguments = _parser().parse(argv)
    if arguments.smoke and arguments.all_attacks:
        raise CommandLineError("--smoke runs two attacks: leave out --all_attacks")
    names = f"{_QUICK},{_COSTLY}" if arguments.all_attacks else _QUICK
    classifier = arguments.workdir / "classifier.keras"
    training = {
        "dataset": "digits",
        "epochs": 3 if arguments.smoke else 20,
        "seed": arguments.seed,
    }

    from keras_traps._files import keep_settings, make_writable

    with refusing():
        make_writable(arguments.workdir, name="workdir")
        keep_settings(classifier.with_suffix(".json"), training, resume=True)
    print("1. A classifier of handwritten digits")
    if not classifier.exists():
        _run(train.main, "train.py", **training, output=classifier)
    print("2. Its traps, and attacks on it")
    _run(
        attractors.main,
        "attractors.py attack",
        dataset="digits",
        model=classifier,
        preset="digits",
        attacks="FGSM,PGD" if arguments.smoke else names,
        num_examples=arguments.num_examples,
        num_examples_costly=arguments.num_examples,
        seed=arguments.seed,
        workdir=arguments.workdir,
        resume=None,
    )


def _run(main: Callable[[Sequence[str]], None], name: str, **flags: object) -> None:
    """Shows a command and runs it."""
    words = [
        f"--{flag}" if value is None else f"--{flag}={value}"
        for flag, value in flags.items()
    ]
    print(f"   python recipes/{name} {shlex.join(words)}", flush=True)
    main([*name.split()[1:], *words])


if __name__ == "__main__":
    command_line.run(main, "Run it again: it goes on from what is there.")
