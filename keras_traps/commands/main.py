"""The console script `keras-traps`."""

from collections.abc import Sequence
from typing import NoReturn

from keras_traps.commands import check, command_line, evaluate, export, trap

_ABOUT = """\
Lays traps for adversarial attacks in a Keras image classifier.

Example:
    keras-traps check model.keras folder:images
    keras-traps trap model.keras folder:images --bounds=0,255 --output=trapped.keras
    keras-traps COMMAND --help
"""


def dispatch(argv: Sequence[str]) -> None:
    """Runs a sub-command."""
    parser = command_line.Parser(_ABOUT, prog="keras-traps")
    check.add_command(parser)
    trap.add_command(parser)
    evaluate.add_command(parser, "evaluate")
    about = "Exports a model as a versioned SavedModel for TensorFlow Serving."
    export.add_flags(parser.command("export", about, export.export))
    arguments = parser.parse(argv)
    arguments.run(arguments)


def main() -> NoReturn:
    """Runs the command line of the process, and ends it."""
    command_line.run(dispatch)
