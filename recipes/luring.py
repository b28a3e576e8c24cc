"""Trains the luring defence, attacks it, and makes the paper's tables and figures.

Example:
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

from absl import app, flags

from keras_traps._flags import Flags
from keras_traps._luring import attack, figure, folder, table, train

_COMMANDS: dict[str, Callable[[flags.FlagValues], Iterator[str]]] = {
    "train": train.train,
    "attack": attack.attack,
    "table": table.table,
    "figure": figure.figure,
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
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the sub-command.

    Args:
        argv: The script and the sub-command.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is run.
    """
    if len(argv) != 2 or argv[1] not in _COMMANDS:
        raise app.UsageError(
            f"Expected one of {', '.join(_COMMANDS)}. Received: {' '.join(argv[1:])!r}"
        )
    for line in _COMMANDS[argv[1]](values):
        print(line, flush=True)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
