"""Traps a classifier and fits its analyzer, in files."""

import json
import secrets

from keras_traps.commands import command_line
from keras_traps.commands.command_line import (
    CommandLineError,
    Flags,
    Parser,
    count,
    given,
    path,
    refusing,
    share,
    whole,
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
    trap.flag("output", about, path, required=True)
    trap.switch("overwrite", "Replace these files.")
    about = "The share of clean images that the analyzer may flag."
    trap.flag("fpr", about, share, default=0.05)
    about = "The share of clean training images whose answer the traps may change."
    trap.flag("budget", f"{about} Defaults to 0.001.", share)
    about = "How many training images are looked at, at most."
    trap.flag("num_images", about, count, default=10_000)
    about = (
        "The seed of the messages: the defence's secret. Defaults to one drawn by "
        "chance."
    )
    trap.flag("seed", about, whole)


def lay_traps(arguments: Flags) -> None:
    """Runs the sub-command."""
    output = arguments.output
    written = {
        "trapped": output,
        "calibration": output.with_name("calibration.json"),
        "analyzer": output.with_name("analyzer.json"),
    }
    if output.suffix != ".keras":
        raise CommandLineError(f"--output has to end in .keras, not as {output}")
    there = [str(one) for one in written.values() if one.exists()]
    if there and not arguments.overwrite:
        raise CommandLineError(f"{', '.join(there)} exist: replace by --overwrite")

    from keras_traps import ForensicAnalyzer, calibrate, inject
    from keras_traps._checks import UNIT, check_bounds
    from keras_traps._files import make_writable, write_atomically
    from keras_traps.commands import trapping
    from keras_traps.devices import hush_retracing, prepare_devices
    from keras_traps.models.forms import class_answers, for_model
    from keras_traps.models.training import save_model

    prepare_devices()
    hush_retracing()
    with refusing():
        make_writable(output.parent, name="output")
    model = trapping.load_model(arguments.model, "MODEL")
    train, test = trapping.load_for(model, arguments)
    train = train.take(min(arguments.num_images, len(train)), seed=0)
    seed = secrets.randbits(63) if arguments.seed is None else arguments.seed
    bounds = arguments.bounds or UNIT
    with refusing():
        clean = for_model(model, train.images, check_bounds(bounds))
        calibration = calibrate(
            model,
            clean,
            train.labels,
            bounds=bounds,
            seed=seed,
            **given(arguments, "budget"),
        )
        trapped = inject(model, calibration)
        analyzer = ForensicAnalyzer(trapped).fit(clean, fpr=arguments.fpr)
    print(*calibration.explanation, sep="\n")
    settings = calibration.settings
    flagged = analyzer.detect(for_model(model, test.images, settings.bounds))
    for name, one, kind in (
        ("classifier", model, settings.output),
        ("trapped model", trapped, "probabilities"),
    ):
        answers = class_answers(one, test.images, kind, settings.bounds)
        right = (answers.argmax(axis=1) == test.labels).mean()
        print(f"On {len(test)} test images the {name} is right on {right:.1%}.")
    print(f"Of these images {flagged.is_adversarial.mean():.1%} are flagged.")
    save_model(trapped, output)
    text = json.dumps(calibration.to_dict(), indent=1) + "\n"
    write_atomically(written["calibration"], text.encode())
    analyzer.save(written["analyzer"])
    print("Saved", ", ".join(map(str, written.values())))
    print("All three are secret: they hold the messages, or the seed of them.")
