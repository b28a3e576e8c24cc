r"""Trains the luring defence, attacks it, and makes the paper's tables.

Example:
    python recipes/luring.py demo
    python recipes/luring.py train --dataset=mnist --variant=target,luring \
        --data_dir=data --workdir=runs/luring_mnist
    python recipes/luring.py attack --dataset=mnist --preset=cpu \
        --data_dir=data --workdir=runs/luring_mnist
    python recipes/luring.py table --dataset=mnist \
        --data_dir=data --workdir=runs/luring_mnist
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

from keras_traps.commands import command_line
from keras_traps.commands.command_line import Flags, count, number, path, positive

DATASETS = ("mnist", "svhn_cropped", "cifar10", "digits")
BASELINES = ("stack", "auto", "ce", "luring")
THREATS = ("luring", "whitebox", "surrogate", "identity", "softened", "exchanged")
LOSSES = ("luring", "margin", "cross_entropy")

_MODULES = {
    "train": "luring_training",
    "attack": "luring_attacks",
    "table": "luring_attacks",
    "pack": "luring_demo",
    "demo": "luring_demo",
}

# Not the package's place, which may be an installed one.
_SHIPPED = Path(__file__).parents[1] / "saved_models" / "mnist_luring"


def _parser() -> command_line.Parser:
    parser = command_line.Parser(__doc__, prog="luring.py")
    _add_training(parser.command("train", "Trains M and networks before it.", _run))
    _add_attacking(parser.command("attack", "Attacks what was trained.", _run))
    table = parser.command("table", "Writes the tables of what was attacked.", _run)
    _add_folder(table, "Of which variants. Defaults to all that were trained.")
    pack = parser.command("pack", "Packs M and the P of luring into small files.", _run)
    command_line.add_data(pack, DATASETS, "mnist")
    pack.flag("workdir", "The folder of what was trained.", path, required=True)
    pack.flag("packed", "The folder for the packed models.", path, required=True)
    about = "Shows an attack on M∘P for MNIST, as it is shipped."
    demo = parser.command("demo", about, _run)
    about = "A folder that holds MNIST. Defaults to digits that are built in."
    demo.flag("data_dir", about, path)
    about = "The folder of the packed models. Defaults to those that are shipped."
    demo.flag("packed", about, path)
    demo.set_defaults(packed=_SHIPPED)
    about = "The folder for the picture."
    demo.flag("output", about, path, default=Path("runs/luring_demo"))
    return parser


def _add_folder(
    parser: command_line.Parser, about: str, variants: Sequence[str] = BASELINES
) -> None:
    command_line.add_data(parser, DATASETS)
    seed = "The seed of weights, of images' order, choice and moves, of attacks."
    command_line.add_work(parser, seed)
    parser.flag("variant", about, options=variants, several=True)
    about = (
        "The classifier M: a .keras file that returns logits, or a DEEPSEC .npz state "
        "dict. Defaults to the one that --variant=target trains."
    )
    parser.flag("model", about, command_line.file)


def _add_training(parser: command_line.Parser) -> None:
    about = (
        "What to train: the classifier, one like it for an attacker, or a network "
        "before it. Defaults to all but the surrogate."
    )
    _add_folder(parser, about, ("target", "surrogate", *BASELINES))
    about = (
        "The steps and rates of P: the authors', which differ by variant, with the "
        "best P kept; or a higher rate that falls like a cosine, for few steps."
    )
    parser.flag("schedule", about, default="authors", options=("authors", "short"))
    parser.flag("steps", "How many steps. Defaults to the schedule's.", count)
    about = "The highest rate of --schedule=short. Defaults to the schedule's."
    parser.flag("peak_rate", about, positive)
    parser.flag("batch_size", "Images per step. Defaults to the schedule's.", count)
    about = "Multiplies the filters of what is trained."
    parser.flag("width", about, positive, default=1.0)
    about = "What luring is trained with."
    parser.flag("loss", about, default="luring", options=LOSSES)
    about = "Lambda of the luring loss. Defaults to the authors'."
    parser.flag("luring_weight", about, number(at_least=0.0))
    about = "Largest random turn of training images, degrees. Defaults to the authors'."
    parser.flag("rotation", about, number(at_least=0.0))
    about = (
        "Largest random shift of training images, as a share of their size. Defaults "
        "to the authors'."
    )
    parser.flag("shift", about, number(at_least=0.0, below=1.0))
    about = (
        "Share of training images that only say which P, of those that are looked at "
        "after each --stage, is kept; --start is one of them. 0 keeps the last. "
        "Defaults to the authors' with --schedule=authors, else 0."
    )
    parser.flag("validation_split", about, number(at_least=0.0, below=1.0))
    about = (
        "A trained P of the same width, such as auto.keras, whose weights P has at "
        "first; for stack also a stack.keras, that is trained on. Defaults to new "
        "weights."
    )
    parser.flag("start", about, command_line.file)
    about = "After how many steps the state of P is saved, and looked at."
    parser.flag("stage", about, count, default=500)


def _add_attacking(parser: command_line.Parser) -> None:
    _add_folder(parser, "What to attack. Defaults to all that were trained.")
    about = (
        "The attacks' settings: the paper's, or with fewer iterations, fit for a few "
        "processor cores."
    )
    parser.flag("preset", about, default="cpu", options=("paper", "cpu"))
    about = (
        "What the attacker has: M∘P (luring), M itself (whitebox), a classifier of his "
        "own (surrogate), or M∘P with a gradient that goes past P (identity) or "
        "through a flatter sigmoid (softened); or, as a control, each image gets the "
        "change that was made for another (exchanged)."
    )
    parser.flag("threat", about, default="luring", options=THREATS)
    about = "Which attacks. The default depends on the threat."
    parser.flag("attacks", about, several=True)
    about = "The radii for pixels in [0, 1]. Defaults to the paper's three."
    parser.flag("eps", about, positive, several=True)
    about = (
        "How much flatter the sigmoid of --threat=softened is; the best of several is "
        "kept. Defaults to those of keras_traps.luring.schemes.SOFTNESS."
    )
    parser.flag("softness", about, number(at_least=1.0), several=True)
    command_line.add_running(parser)
    about = (
        "On how many of them the settings of DIM, MIM-TI and DIM-TI are compared; the "
        "best of them meets all. Defaults to all."
    )
    parser.flag("num_examples_sweep", about, count)
    about = (
        "Do not compare these settings, but take the first; so does "
        "--threat=exchanged always."
    )
    parser.switch("no_sweep", about)
    parser.flag("nb_iter", "How many steps. Defaults to the preset's.", count)


def main(argv: Sequence[str]) -> None:
    """Runs the sub-command."""
    arguments = _parser().parse(argv)
    arguments.run(arguments)


def _run(arguments: Flags) -> None:
    module = importlib.import_module(_MODULES[arguments.command])
    getattr(module, arguments.command)(arguments)


if __name__ == "__main__":
    command_line.run(main)
