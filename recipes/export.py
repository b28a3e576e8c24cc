r"""Traps a classifier, or takes a lured one, and exports it for TensorFlow Serving.

Example:
    python recipes/export.py --dataset=mnist --data_dir=data \
        --model=runs/mnist.keras --directory=saved_models/mnist_attractors
"""

from collections.abc import Sequence

from keras_traps.commands import command_line
from keras_traps.commands.export import add_flags, export


def main(argv: Sequence[str]) -> None:
    """Exports what the flags name."""
    parser = command_line.Parser(__doc__, prog="export.py")
    add_flags(parser)
    export(parser.parse(argv))


if __name__ == "__main__":
    command_line.run(main, "Start again: what is half written is not kept.")
