r"""Hands out trapped copies of a classifier, each under a key of its own.

`make` registers copies, and with --save writes their models. `trace` tells which copy
adversarial images were made on, without the originals. `evaluate` attacks copies, alone
and together, and counts how often they are traced.

Example:
    python recipes/copies.py make --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --name=alice,bob --save --workdir=runs/copies
    python recipes/copies.py trace --registry=runs/copies/registry.json \
        --key_file=runs/copies/key --images=suspects.npz --workdir=runs/traced
    python recipes/copies.py evaluate --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --num_examples=100 --workdir=runs/copies_mnist
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_traps.commands import command_line
from keras_traps.commands.command_line import CommandLineError, Flags, count, refusing

if TYPE_CHECKING:
    from keras_traps._checks import FloatArray
    from keras_traps.attractors import Registry

ASKING = ("RayS", "HopSkipJump", "Square")
_COSTLY = ("UAP", "OM", "BPDA", "SPSA", "JSMA", "BLB", "CW2", "EAD", *ASKING)
_FPR = 0.01
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def _parser() -> command_line.Parser:
    parser = command_line.Parser(__doc__, prog="copies.py")
    about = "Registers copies; those of a --workdir in use, of new versions or names."
    make_copies = parser.command("make", about, make)
    command_line.add_traps(make_copies)
    about = "Who gets a copy; who has one gets a new version."
    make_copies.flag("name", about, several=True, required=True)
    make_copies.switch("save", "Write each new copy as a .keras file.")

    about = "Tells which copy images were made on; writes a page and its numbers."
    one = parser.command("trace", about, trace)
    about = "The registry.json of `make`."
    one.flag("registry", about, command_line.file, required=True)
    about = "The master key's file, the key in --workdir of `make`."
    one.flag("key_file", about, command_line.path)
    one.flag("public_key", "A public master key in its place.", command_line.whole)
    about = (
        "The suspects: a folder of image files, or an .npz file whose array `images` "
        "has pixels from 0 to 255, or floating point in the range of the model."
    )
    one.flag("images", about, command_line.path, required=True)
    about = "How many keys that nobody has are tried."
    one.flag("innocent", about, count, default=10_000)
    about = "How often any copy may be named for an image that was made on none."
    one.flag("fpr", about, command_line.share, default=_FPR)
    one.flag("workdir", "The folder for the page.", command_line.path, required=True)

    about = "Attacks copies and counts how often they are traced."
    all_of_it = parser.command("evaluate", about, evaluate)
    command_line.add_traps(all_of_it)
    usual = f"all of the preset and {','.join(ASKING)}"
    command_line.add_attacks(all_of_it, usual)
    about = "The attacks that meet fewer images."
    all_of_it.flag("costly", about, default=_COSTLY, several=True)
    about = "How many images these meet at most."
    all_of_it.flag("num_examples_costly", about, count, default=20)
    all_of_it.flag("num_copies", "How many copies.", count, default=5)
    about = "How many keys that nobody has are tried."
    all_of_it.flag("innocent", about, count, default=2500)
    return parser


def main(argv: Sequence[str]) -> None:
    """Runs the sub-command."""
    arguments = _parser().parse(argv)
    arguments.run(arguments)


def make(arguments: Flags) -> None:
    """Writes `registry.json`, and the models where they are asked for."""
    from keras_traps import attractors
    from keras_traps._files import keep_settings
    from keras_traps.commands import trapping
    from keras_traps.models.training import save_model

    path = arguments.workdir / "registry.json"
    if path.exists() and not arguments.resume:
        raise CommandLineError(f"{path} exists: hand out more copies with --resume")
    trapping.begin(arguments)
    train, test = trapping.load_data(arguments)
    trapped = trapping.trap(arguments, train, test)
    calibration, classifier = trapped.calibration, trapped.defence.classifier
    master = calibration.settings.key
    with refusing():
        keep_settings(
            arguments.workdir / "calibration.json", calibration.to_dict(), resume=True
        )
        if path.exists():
            registry = attractors.Registry.load(path)
            registry.check(classifier)
            registry = registry.hand_out(master, arguments.name)
        else:
            registry = attractors.Registry.of(
                classifier, calibration.settings, master, arguments.name
            )
        registry.save(path)
    new = registry.copies[-len(arguments.name) :]
    for copy in new:
        print(f"Handed out: {copy.title}, fingerprint {copy.fingerprint}")
    if arguments.save:
        recent = dataclasses.replace(registry, copies=new)
        for copy, model in attractors.copies(classifier, recent, master):
            # Names are any text, and files are not.
            name = re.sub(r"[^\w.-]", "_", copy.name)
            to = arguments.workdir / f"{name}-{copy.fingerprint}.keras"
            save_model(model, to)
            right = trapping.accuracy(
                model, trapped.test, "scores", calibration.settings.bounds
            )
            print(f"Saved: {to}, right on {right:.2%} of {len(trapped.test)} images")
    print(f"Written: {path}")


def trace(arguments: Flags) -> None:
    """Writes `trace.html` and its numbers."""
    from keras_traps import Key, attractors
    from keras_traps.evaluation.report import write_trace
    from keras_traps.provenance import provenance

    if (arguments.key_file is None) == (arguments.public_key is None):
        raise CommandLineError("--key_file or --public_key has to be given")
    with refusing():
        master = (
            Key.load(arguments.key_file)
            if arguments.public_key is None
            else Key.from_seed(arguments.public_key)
        )
        registry = attractors.Registry.load(arguments.registry)
        names, suspects = _suspects(arguments.images, registry)
        found = attractors.trace(
            suspects,
            registry,
            master,
            innocent=arguments.innocent,
        )
        paths = write_trace(
            found,
            arguments.workdir,
            images=names,
            fpr=arguments.fpr,
            provenance=provenance(arguments.command_line),
        )
    together = found.together()
    best = together.likeliest[0]
    print(
        f"The likeliest copy: {found.copies[best].title}, p-value "
        f"{together.p_values[best, 0]:.2g} of {len(names)} images together"
    )
    print(f"Written: {paths.html}")


def _suspects(path: Path, registry: "Registry") -> tuple[list[str], "FloatArray"]:
    """Reads images with their names, in the range of the model."""
    import numpy as np
    from PIL import Image

    from keras_traps._pixels import from_unit

    low, high = registry.settings["bounds"]
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            if "images" not in archive:
                raise ValueError(f"{path} has no array `images`")
            images = archive["images"]
        names = [str(number) for number in range(len(images))]
        if images.dtype != np.uint8:
            return names, images
    else:
        files = sorted(p for p in path.glob("*") if p.suffix.lower() in _PICTURES)
        if not files:
            raise ValueError(f"there are no image files in {path}")
        mode = "RGB" if registry.shape[2:] == (3,) else "L"
        images = np.stack([np.asarray(Image.open(p).convert(mode)) for p in files])
        images = images.reshape(*images.shape[:3], *registry.shape[2:])
        names = [file.name for file in files]
    return names, from_unit(images / np.float32(255), (low, high))


def evaluate(arguments: Flags) -> None:
    """Attacks copies, traces what came of it, and writes `copies.json`."""
    import copies_evaluation

    copies_evaluation.evaluate(arguments)


if __name__ == "__main__":
    command_line.run(main)
