r"""Draws figures of the papers from your own data and model.

Example:
    python recipes/figure.py attractors --figure=7a --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --num_examples=10000 --workdir=runs/figures
    python recipes/figure.py luring --figure=4,5 --dataset=mnist --data_dir=data \
        --workdir=runs/luring_mnist
    python recipes/figure.py toy --workdir=runs/luring_toy
    python recipes/figure.py detectors --leaderboard=runs/board/leaderboard.json \
        --workdir=runs/figures
"""

import argparse
import json
from collections.abc import Sequence

from luring import BASELINES, DATASETS, LOSSES

from keras_traps.commands import command_line
from keras_traps.commands.command_line import count, number, positive

_ATTRACTORS = ("1", "2", "4", "5", "6", "7a", "7b", "ablation")
_LURING = ("4", "5", "6", "directions")
# Not in the paper. A trapdoor has to stand out from clean images, small ones most.
_AMPLITUDES = {"mnist": 0.2, "cifar10": 0.1, "digits": 0.8}
# A root mean square of about 46 grey levels per pixel.
_DELTAS = {"mnist": 5.0, "cifar10": 10.0, "digits": 1.5}
# Fewer and, by their rate, larger steps than the paper's.
_CW2 = {"binary_search_steps": 4, "max_iterations": 100}
# The Jacobian of P takes many passes for each image.
_MOST_IN_FIGURE_6 = 100


def _parser() -> command_line.Parser:
    parser = command_line.Parser(__doc__, prog="figure.py")
    about = "Draws figures of the attractor paper, or makes the ablation's table."
    attractors = parser.command("attractors", about, _attractors)
    about = "Which figures to draw, or the ablation."
    attractors.flag("figure", about, options=_ATTRACTORS, several=True, required=True)
    command_line.add_traps(attractors)
    about = "How many test images to look at."
    attractors.flag("num_examples", about, count, default=1000)
    about = "7b: radius of the local density, in L2 for pixels in [0, 1]. The default "
    attractors.flag("delta", f"{about}depends on the data set.", positive)
    about = "7b: points around each image, at least 2."
    attractors.flag("samples", about, number(int, at_least=2), default=2048)
    about = "6 and ablation: how many images are attacked at most."
    attractors.flag("num_attacked", about, count, default=200)
    about = "6: how much a trapdoor changes a pixel. The default "
    attractors.flag("amplitude", f"{about}depends on the data set.", command_line.share)
    about = "Draws figures of the luring paper from what luring.py trained."
    luring = parser.command("luring", about, _luring)
    about = "Which figures to draw, or the opposite directions to count."
    luring.flag("figure", about, options=_LURING, several=True, required=True)
    command_line.add_data(luring, DATASETS)
    about = "The folder that luring.py trained and attacked in; 4 and 5 need attacks."
    luring.flag("workdir", about, command_line.path, required=True)
    about = "Of which variants. Defaults to all that were trained."
    luring.flag("variant", about, options=BASELINES, several=True)
    about = "The classifier M, where it was not trained by luring.py."
    luring.flag("model", about, command_line.file)
    about = "6 and directions: how many test images to look at."
    luring.flag("num_examples", about, count, default=1000)
    luring.flag("seed", "6: the seed of random signs.", command_line.whole, default=0)
    about = "Draws the luring paper's Figures 2 and 3, on three built-in classes."
    toy = parser.command("toy", about, _toy)
    about = "The folder for pictures and numbers."
    toy.flag("workdir", about, command_line.path, required=True)
    about = "The seed of images, weights and attacks."
    toy.flag("seed", about, command_line.whole, default=0)
    toy.flag("loss", "What P is trained with.", default="luring", options=LOSSES)
    about = "The radii of PGD; the last is drawn."
    toy.flag("eps", about, positive, default=(0.2, 0.3, 0.4), several=True)
    toy.flag("steps", "Steps that P is trained for.", count, default=300)
    about = "How many images are attacked, at least 3."
    toy.flag("num_examples", about, number(int, at_least=3), default=90)
    about = "Draws what gets past each contender of a leaderboard, and whose it is."
    detectors = parser.command("detectors", about, _detectors)
    about = "The leaderboard.json that robustness.py wrote."
    detectors.flag("leaderboard", about, command_line.file, required=True)
    about = "The folder for the picture and its numbers."
    detectors.flag("workdir", about, command_line.path, required=True)
    return parser


def main(argv: Sequence[str]) -> None:
    """Measures, draws and writes what the sub-command and its flags say."""
    arguments = _parser().parse(argv)
    arguments.run(arguments)


def _attractors(arguments: argparse.Namespace) -> None:
    from figures.ablation import ablation, choices
    from figures.attractions import figure_7a, figure_7b
    from figures.drawing import write
    from figures.gradients import figure_5
    from figures.illustrations import figure_1, figure_2, figure_4
    from figures.trapdoor import figure_6

    from keras_traps import attacks
    from keras_traps._files import keep_settings, make_writable
    from keras_traps.commands import trapping
    from keras_traps.models.forms import standard_form

    workdir, dataset, seed = arguments.workdir, arguments.dataset, arguments.seed
    with command_line.refusing():
        make_writable(workdir, name="--workdir")
    train, test = trapping.load_data(arguments)
    trapped = trapping.trap(arguments, train, test)
    test = trapped.test
    with command_line.refusing():
        constants = trapped.calibration.to_dict()
        keep_settings(workdir / "calibration.json", constants, resume=True)
    defence, calibration = trapped.defence, trapped.calibration
    model, output, bounds = defence.classifier, defence.output, defence.bounds
    if standard_form(model, output, bounds) is not model:
        raise command_line.CommandLineError(
            "figures are drawn of classifiers with an output for each class, of images "
            "of height, width and channels with pixels from 0 to 1, and not of "
            f"{model.name} with bounds {bounds}: put what differs into a model"
        )
    few = test.take(min(arguments.num_examples, len(test)))
    preset = trapping.PRESETS.get(dataset, "table7_cifar10")
    fgsm, pgd, umifgsm = attacks.preset(preset, ("FGSM", "PGD", "UMIFGSM"))
    cw2 = attacks.create("CW2", learning_rate=0.1, initial_const=0.1, **_CW2)
    attacked = {"num_attacked": arguments.num_attacked, "seed": seed}
    amplitude = arguments.amplitude or _AMPLITUDES.get(dataset, 0.2)
    delta = arguments.delta or _DELTAS.get(dataset, 5.0)
    makers = {
        "1": lambda: figure_1(defence.trapped, test),
        "2": lambda: figure_2(defence.trapped, defence.main_analyzer, test, fgsm),
        "4": lambda: figure_4(defence.trapped, test),
        "5": lambda: figure_5(defence, few),
        "6": lambda: figure_6(
            defence, [fgsm, pgd, cw2], train, few, amplitude=amplitude, **attacked
        ),
        "7a": lambda: figure_7a(defence, few),
        "7b": lambda: figure_7b(
            defence.trapped, few, delta=delta, samples=arguments.samples, seed=seed
        ),
        "ablation": lambda: ablation(
            defence,
            calibration,
            choices(calibration),
            [fgsm, pgd, umifgsm],
            train,
            few,
            **attacked,
        ),
    }
    for name in dict.fromkeys(arguments.figure):
        print(f"Written: {write(makers[name](), trapped.provenance, workdir)}")


def _luring(arguments: argparse.Namespace) -> None:
    from figures.drawing import write
    from figures.luring_figures import direction_counts, figure_4, figure_5, figure_6
    from luring_folder import Folder

    from keras_traps.commands import trapping
    from keras_traps.devices import hush_retracing, prepare_devices
    from keras_traps.evaluation.metrics import make_frame
    from keras_traps.evaluation.records import RecordStore
    from keras_traps.evaluation.subjects import choose_examples
    from keras_traps.models.inference import predict
    from keras_traps.provenance import provenance

    prepare_devices()
    hush_retracing()
    dataset, folder = arguments.dataset, Folder.of(arguments)
    names = folder.variants(arguments.variant)
    asked = dict.fromkeys(arguments.figure)
    facts = {
        "seed": arguments.seed,
        "models": {name: folder.facts(name)["model"] for name in names},
    }
    made = []
    if {"4", "5"} & {*asked}:
        with command_line.refusing():
            runs = folder.runs(names)
            frame = make_frame(runs, RecordStore.open(folder.path))
            facts["attacks"] = {
                f"{run.attack} {run.eps:g} on {run.about['variant']}": run.settings
                for run in runs
                if run.about["threat"] == "luring"
            }
            drawers = {"4": figure_4, "5": figure_5}
            made += [drawers[name](dataset, frame) for name in asked if name in drawers]
    if {"6", "directions"} & {*asked}:
        test = trapping.load_data(arguments)[1]
        target = folder.target()
        variants = {name: folder.augmented(name, target) for name in names}
        outputs = [predict(one, test.images) for one in (target, *variants.values())]
        with command_line.refusing():
            most = arguments.num_examples
            examples = choose_examples(test, outputs, num_examples=most)
        if "6" in asked:
            few = examples.take(slice(_MOST_IN_FIGURE_6))
            shown = (few.images, few.labels)
            made.append(
                figure_6(dataset, target, variants, *shown, seed=arguments.seed)
            )
        if "directions" in asked:
            made.append(direction_counts(dataset, target, variants, examples.images))
    origin = provenance(arguments.command_line, **facts)
    for result in made:
        print(f"Written: {write(result, origin, folder.path / 'figures')}")


def _toy(arguments: argparse.Namespace) -> None:
    from figures import luring_toy
    from figures.drawing import write

    from keras_traps._files import make_writable
    from keras_traps.devices import hush_retracing, prepare_devices
    from keras_traps.provenance import provenance, weights_sha256

    with command_line.refusing():
        make_writable(arguments.workdir, name="--workdir")
    device = prepare_devices()
    hush_retracing()
    seed = arguments.seed
    # Seeds of training and test images never meet: one is even, one is odd.
    train = luring_toy.toy_images(600, seed=2 * seed)
    test = luring_toy.toy_images(arguments.num_examples, seed=2 * seed + 1)
    target = luring_toy.train_toy_target(train)
    model = luring_toy.train_toy_lure(
        target, train, loss=arguments.loss, steps=arguments.steps, seed=seed
    )
    result = luring_toy.luring_toy(model, test, eps=arguments.eps, seed=seed)
    facts = provenance(
        arguments.command_line,
        seed=seed,
        device=device,
        target=weights_sha256(target),
        model=weights_sha256(model),
    )
    print(f"Written: {write(result, facts, arguments.workdir)}")


def _detectors(arguments: argparse.Namespace) -> None:
    from figures.detectors import figure_detectors
    from figures.drawing import write

    with command_line.refusing(f"{arguments.leaderboard} is no leaderboard"):
        try:
            board = json.loads(arguments.leaderboard.read_text("utf-8"))
            result = figure_detectors(board)
        except (KeyError, TypeError) as error:
            raise ValueError(repr(error)) from error
    print(f"Written: {write(result, board['provenance'], arguments.workdir)}")


if __name__ == "__main__":
    command_line.run(main, "Run the same command again.")
