"""Flags of the command and of recipes, and how these start and end.

It imports neither TensorFlow nor what uses it, so that `--help` and a wrong command
line are answered at once.
"""

import argparse
import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from absl.flags import argparse_flags

OUTPUTS = ("logits", "probabilities")
VARIANTS = (
    *("paper", "margin", "raw_sum", "integrated", "integrated_label"),
    *("rejecting", "adaptive"),
)
ENGINES = ("local", "ray")
_COSTLY = ("OM", "BPDA", "SPSA", "JSMA", "BLB", "CW2", "EAD")

Flags = argparse.Namespace


class CommandLineError(Exception):
    """What was asked for cannot be done; the message says why."""


class Parser(argparse_flags.ArgumentParser):
    """A parser whose help tells defaults, and whose errors are exceptions."""

    def __init__(self, about: str | None = None, **settings: Any) -> None:
        super().__init__(
            inherited_absl_flags=None,
            allow_abbrev=False,
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **settings,
        )
        self._commands: Any = None

    def command(self, name: str, about: str, run: Callable[[Flags], None]) -> "Parser":
        """Adds a sub-command, and returns the parser of its flags."""
        if self._commands is None:
            self._commands = self.add_subparsers(
                dest="command", required=True, metavar="COMMAND"
            )
        made: Parser = self._commands.add_parser(name, about=about, help=about)
        made.set_defaults(run=run)
        return made

    def flag(
        self,
        name: str,
        about: str,
        kind: Callable[[str], Any] = str,
        *,
        default: Any = None,
        options: Sequence[str] = (),
        several: bool = False,
        required: bool = False,
    ) -> None:
        """Adds a flag `--name=VALUE`; one of `several` values is repeated."""
        read = _one_of(options) if options else kind
        if default not in (None, ()):
            shown = ",".join(map(str, default)) if several else default
            about += f" Defaults to {shown}."
        self.add_argument(
            f"--{name}",
            help=about.replace("%", "%%"),
            type=(lambda text: tuple(map(read, text.split(",")))) if several else read,
            action=_Several if several else "store",
            default=default,
            required=required,
            metavar=f"{{{','.join(options)}}}" if options else name.upper(),
        )

    def switch(self, name: str, about: str) -> None:
        """Adds a flag `--name` that is off where it is not given."""
        self.add_argument(f"--{name}", action="store_true", help=about)

    def parse(self, argv: Sequence[str]) -> Flags:
        """Reads a command line."""
        found = self.parse_args(list(argv))
        found.command_line = (self.prog, *argv)
        return found

    def format_help(self) -> str:
        """Returns the help, with that of all sub-commands."""
        below = self._commands.choices.values() if self._commands else ()
        return "\n".join([super().format_help(), *(one.format_help() for one in below)])

    def error(self, message: str) -> NoReturn:
        """Raises what `run` tells in one line."""
        raise CommandLineError(message)


def run(
    main: Callable[[Sequence[str]], None],
    go_on: str = "Go on by the same command with --resume.",
) -> NoReturn:
    """Runs a script and ends the process; its code is 2 for a wrong command line."""
    # Whoever waits for one line is not to look for it among TensorFlow's.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    interrupted = False

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(signum, frame)

    # A process that was started with Ctrl-C ignored goes on ignoring it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        main(sys.argv[1:])
    except CommandLineError as error:
        print(f"{Path(sys.argv[0]).name}: {error} (see --help)", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, Exception) as error:
        # Where TensorFlow calls Python, it makes another error of an interrupt.
        if not (interrupted or isinstance(error, KeyboardInterrupt)):
            raise
        print(f"\nInterrupted. {go_on}", file=sys.stderr)
        sys.exit(130)
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(0)


def given(arguments: Flags, *names: str) -> dict[str, Any]:
    """Returns those of some flags that have a value."""
    found = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


@contextlib.contextmanager
def refusing(what: str = "") -> Iterator[None]:
    """Makes a wrong command line of an error within; not meant for the long work."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        text = " ".join(str(error).split())
        raise CommandLineError(f"{what}: {text}" if what else text) from error


def number(
    kind: type[int] | type[float] = float,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
) -> Callable[[str], float]:
    """Returns what reads a finite number within limits."""
    limits = {"above": above, "of at least": at_least, "below": below}
    words = [f"{name} {limit:g}" for name, limit in limits.items() if abs(limit) < 1e9]
    expected = f"{'an integer' if kind is int else 'a number'} {' and '.join(words)}"

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if math.isfinite(value) and at_least <= value and above < value < below:
                return value
        raise argparse.ArgumentTypeError(f"expected {expected}, not {text}")

    return read


count, whole = number(int, at_least=1), number(int, at_least=0)
share, positive = number(above=0.0, below=1.0), number(above=0.0)


def path(text: str) -> Path:
    """Reads a path; `~` is the user's own folder."""
    return Path(text).expanduser()


def file(text: str) -> Path:
    """Reads the path of a file that is there."""
    if (path(text) / "saved_model.pb").is_file():
        raise argparse.ArgumentTypeError(
            f"{text} is a SavedModel folder, which holds no layers: save the model as "
            "a .keras file by the program that made it"
        )
    if not path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path(text)


def bounds(text: str) -> tuple[float, float]:
    """Reads the least and the largest value of a pixel, such as 0,255."""
    with contextlib.suppress(ValueError):
        low, high = map(float, text.split(","))
        if -math.inf < low < high < math.inf:
            return low, high
    raise argparse.ArgumentTypeError(
        f"expected the least and the largest value of a pixel, as 0,255, not {text}"
    )


def add_bounds(parser: Parser, default: str = "0,1") -> None:
    """Adds the flag of the range of pixels that a model takes."""
    about = (
        "The least and the largest value of a pixel, as the model takes it: 0,255 for "
        f"one that was trained on grey levels. Defaults to {default}."
    )
    parser.flag("bounds", about, bounds)


def add_data(
    parser: Parser, options: Sequence[str] = (), default: str = "digits"
) -> None:
    """Adds the flags of the data set, one of `options` if there are any."""
    about = "The data set."
    if not options:
        about = (
            "The data set: folder:PATH for image files in a folder for each class, an "
            ".npz file, or a name."
        )
    parser.flag("dataset", about, default=default, options=options)
    about = (
        "Height, width and if need be channels that images are made to have, such as "
        "64,64 or 64,64,3. Those of a folder have the --model's else."
    )
    parser.flag("image_size", about, count, default=(), several=True)
    about = (
        "The folder that holds the data set; see the README. Nothing is downloaded "
        "where it is given."
    )
    parser.flag("data_dir", about, path)


def add_model_and_images(parser: Parser, *, required: bool = True) -> None:
    """Adds what a command is about: a model, and images that it classifies."""
    parser.add_argument("model", type=file, metavar="MODEL", help="A .keras file.")
    about = (
        "Images with their classes: folder:PATH for image files in a folder for each "
        "class, an .npz file, or the name of a data set. Those of a folder are resized "
        "as the model needs them."
    )
    optional: dict[str, Any] = {} if required else {"nargs": "?"}
    parser.add_argument("dataset", metavar="IMAGES", help=about, **optional)
    about = "The folder of a data set that is named; nothing is downloaded then."
    parser.flag("data_dir", about, path)
    add_bounds(parser, "0,1" if required else "what the model and IMAGES tell")
    parser.set_defaults(image_size=())


def add_work(parser: Parser, seed: str) -> None:
    """Adds the flags of where work is kept; `seed` says what the seed is of."""
    parser.flag("workdir", "The folder for all that is made.", path, required=True)
    parser.flag("seed", seed, whole, default=0)
    parser.switch("resume", "Go on in a --workdir in use.")


def add_key(parser: Parser, default: str) -> None:
    """Adds the flags of the traps' secret; `default` says which one is taken."""
    about = (
        "The file of the traps' secret key. Where there is none, a new key is written "
        f"to it, for its owner's eyes alone. Defaults to {default}."
    )
    parser.flag("key_file", about, path)
    about = (
        "A number to make a key of that is public, in place of a secret one, for an "
        "experiment that others are to repeat."
    )
    parser.flag("public_key", about, whole)


def add_traps(parser: Parser) -> None:
    """Adds the flags of a classifier and its traps, and those of the work."""
    add_data(parser)
    about = "The classifier: a .keras file, or a DEEPSEC .npz state dict."
    parser.flag("model", about, file, required=True)
    add_bounds(parser)
    about = (
        "What the classifier returns. Defaults to what its answers look like, which is "
        "told."
    )
    parser.flag("output", about, options=OUTPUTS)
    about = "The share of clean training images whose answer the traps may change."
    parser.flag("budget", f"{about} Defaults to 0.001.", share)
    about = (
        "How much the small step adds to the clean spread, as a share of the large. "
        "Defaults to 0.5."
    )
    parser.flag("small_step_share", about, positive)
    about = "A calibration.json to use, with its own four of these, not a new one."
    parser.flag("calibration", about, file)
    about = "The false-positive rates to set thresholds for."
    parser.flag("fpr", about, share, default=(0.05, 0.005), several=True)
    add_key(parser, "`key` in --workdir")
    add_work(parser, "The seed of targets and attacks.")


def add_attacks(parser: Parser, attacks: str) -> None:
    """Adds the flags of attacks; `attacks` says which are run where none is named."""
    about = (
        "The attacks' settings: the paper's for the data set, or with fewer iterations "
        "(cpu), fit for a few processor cores; or the name of one of "
        "keras_traps.attacks.PRESETS, for a data set that is not the paper's."
    )
    parser.flag("preset", about, default="cpu")
    parser.flag("attacks", f"Which attacks. Defaults to {attacks}.", several=True)
    about = (
        "Another setting than the preset's, such as SPSA.nb_iter=500 or, as in JSON, "
        'EAD.decision_rule="EN"; give it once for each.'
    )
    # Its values may have commas.
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="ATTACK.NAME=VALUE",
        help=about,
    )
    add_running(parser)


def add_costly(parser: Parser) -> None:
    """Adds the flags of attacks that take long, and so meet fewer images."""
    about = "The attacks that meet fewer images."
    parser.flag("costly", about, default=_COSTLY, several=True)
    about = "How many images these meet at most."
    parser.flag("num_examples_costly", about, count, default=200)


def add_running(parser: Parser) -> None:
    """Adds the flags that say how many images are attacked, and where."""
    about = "How many test images to attack at most."
    parser.flag("num_examples", about, count, default=1000)
    about = "How many images are attacked at once, fewer where they are large."
    parser.flag("chunk_size", about, count, default=250)
    about = (
        "Where the attacks run: in this process, or spread by Ray over the cores or "
        "GPUs of this machine, or over the cluster that RAY_ADDRESS names."
    )
    parser.flag("engine", about, default="local", options=ENGINES)


class _Several(argparse.Action):
    """Adds up what a repeated flag says; the first time replaces the default."""

    def __call__(
        self, parser: Any, namespace: Flags, values: Any, option_string: Any = None
    ) -> None:
        del parser, option_string
        before = getattr(namespace, self.dest)
        earlier = () if before is self.default else before
        setattr(namespace, self.dest, (*earlier, *values))


def _one_of(options: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text in options:
            return text
        expected = f"expected one of {', '.join(options)}, not {text}"
        raise argparse.ArgumentTypeError(expected)

    return read
