r"""Traps a classifier, attacks it, and writes a report or the paper's tables.

Example:
    python recipes/attractors.py attack --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --workdir=runs/mnist
    python recipes/attractors.py attack --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --workdir=runs/tables_mnist --table=1,2,3,4,5,6
    python recipes/attractors.py summary --output=attractors_mnist.md \
        --report=runs/mnist/report/report.json --report=runs/mnist_1/report/report.json
"""

from collections.abc import Sequence

from keras_traps.commands import command_line, evaluate
from keras_traps.commands.command_line import Flags, file, path


def _parser() -> command_line.Parser:
    parser = command_line.Parser(__doc__, prog="attractors.py")
    evaluate.add_command(parser, "attack")
    about = "Puts the reports of several keys into one table."
    summary = parser.command("summary", about, _summary)
    about = "A report.json; one for each key."
    summary.flag("report", about, file, several=True, required=True)
    summary.flag("output", "The Markdown file to write.", path, required=True)
    return parser


def main(argv: Sequence[str]) -> None:
    """Runs the sub-command."""
    arguments = _parser().parse(argv)
    arguments.run(arguments)


def _summary(arguments: Flags) -> None:
    import summary

    summary.write_summary(arguments)


if __name__ == "__main__":
    command_line.run(main)
