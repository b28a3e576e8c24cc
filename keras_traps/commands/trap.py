"""Traps a classifier and fits its analyzer, in files."""

import json

from keras_traps.commands import command_line
from keras_traps.commands.command_line import (
    CommandLineError,
    Flags,
    Parser,
    count,
    given,
    refusing,
    share,
)


def add_command(parser: Parser) -> None:
    """Adds the sub-command."""
    about = "Traps a classifier; saves the trapped model, its constants and analyzer."
    trap = parser.command("trap", about, lay_traps)
    command_line.add_model_and_images(trap)
    about = (
        "The trapped model's .keras file; calibration.json and analyzer.json are "
        "written beside it."
    )
    trap.flag("output", about, command_line.path, required=True)
    trap.switch("overwrite", "Replace these files.")
    about = "The share of clean images that the analyzer may flag."
    trap.flag("fpr", about, share, default=0.05)
    about = "The share of clean training images whose answer the traps may change."
    trap.flag("budget", f"{about} Defaults to 0.001.", share)
    about = "How many training images are looked at, at most."
    trap.flag("num_images", about, count, default=10_000)
    command_line.add_key(trap, "a new key that is kept nowhere")


def lay_traps(arguments: Flags) -> None:
    """Runs the sub-command."""
    path = arguments.output
    beside = [path.with_name(f"{name}.json") for name in ("calibration", "analyzer")]
    if path.suffix != ".keras":
        raise CommandLineError(f"--output has to end in .keras, not as {path}")
    there = [str(one) for one in (path, *beside) if one.exists()]
    if there and not arguments.overwrite:
        raise CommandLineError(f"{', '.join(there)} exist: replace by --overwrite")

    from keras_traps import ForensicAnalyzer, calibrate, inject
    from keras_traps._checks import UNIT
    from keras_traps._files import make_writable, write_atomically
    from keras_traps.commands import trapping
    from keras_traps.devices import hush_retracing, prepare_devices
    from keras_traps.models.forms import check_data, for_model
    from keras_traps.models.training import save_model

    prepare_devices()
    hush_retracing()
    with refusing():
        make_writable(path.parent, name="output")
    model = trapping.load_classifier(arguments.model, arguments.dataset)
    train, test = trapping.load_data(arguments, model)
    train = train.take(min(arguments.num_images, len(train)), seed=0)
    key = trapping.read_key(arguments)
    bounds = arguments.bounds or UNIT
    with refusing():
        check_data(model, test, name="MODEL")
        clean = for_model(model, train.images, bounds)
        calibration = calibrate(
            model,
            clean,
            train.labels,
            bounds=bounds,
            key=key,
            **given(arguments, "budget"),
        )
        trapped = inject(model, calibration)
        held_out, test = trapping.threshold_images(train, test, [arguments.fpr])
        analyzer = ForensicAnalyzer(trapped).fit(
            for_model(model, held_out.images, bounds), fpr=arguments.fpr
        )
    print(*calibration.explanation, sep="\n")
    bare = trapping.accuracy(model, test, calibration.settings.output, bounds)
    right = trapping.accuracy(trapped, test, "scores", bounds)
    print(
        f"On {len(test)} test images the classifier is right on {bare:.1%}, the "
        f"trapped model on {right:.1%}."
    )
    flagged = analyzer.detect(for_model(model, test.images, bounds)).is_adversarial
    print(f"Of these images {flagged.mean():.1%} are flagged.")
    trapping.keep_key(arguments, key)
    save_model(trapped, path)
    text = json.dumps(calibration.to_dict(), indent=1) + "\n"
    write_atomically(beside[0], text.encode())
    analyzer.save(beside[1])
    print(f"Saved {path}, {beside[0].name} and {beside[1].name}.")
    print(f"{path.name} is secret: it holds the messages.")
