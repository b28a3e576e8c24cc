"""Trains the luring defence, attacks it, and makes the paper's tables and figures.

Example:
    python recipes/luring.py --demo
    python recipes/luring.py train --dataset=mnist --variant=target --variant=luring \
        --data_dir=data --workdir=runs/luring_mnist
    python recipes/luring.py attack --dataset=mnist --preset=cpu \
        --data_dir=data --workdir=runs/luring_mnist
    python recipes/luring.py table --dataset=mnist \
        --data_dir=data --workdir=runs/luring_mnist
    python recipes/luring.py figure --dataset=mnist --figure=4 \
        --data_dir=data --workdir=runs/luring_mnist
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import app, flags

from keras_traps._flags import Flags, check_flags_only
from keras_traps._luring import attack, demo, figure, folder, packed, table, train, uses

_COMMANDS: dict[str, Callable[[flags.FlagValues], Iterator[str]]] = {
    "train": train.train,
    "attack": attack.attack,
    "table": table.table,
    "figure": figure.figure,
    "pack": packed.pack,
}


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    define = Flags(values)
    folder.define_flags(define)
    train.define_training_flags(define)
    attack.define_attack_flags(define)
    figure.define_figure_flags(define)
    # Not the package's place, which may be an installed one.
    shipped = Path(__file__).parents[1] / "saved_models" / "mnist_luring"
    packed.define_packed_flags(define, shipped=shipped)
    demo.define_demo_flags(define)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the sub-command, or the demo.

    Args:
        argv: The script, and the sub-command unless `--demo` is given.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is run.
    """
    if values.demo:
        check_flags_only(argv)
        uses.check_used(values, "demo")
        lines = demo.demo(values)
    elif len(argv) == 2 and argv[1] in _COMMANDS:
        uses.check_used(values, argv[1])
        lines = _COMMANDS[argv[1]](values)
    else:
        raise app.UsageError(
            f"Expected --demo, or one of {', '.join(_COMMANDS)}. "
            f"Received: {' '.join(argv[1:])!r}"
        )
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
