r"""Finds the worst case per image over many attacks, each on what still stands.

An image that one attack gets through with, misclassified and not flagged, is not given
to the next, so that the costly attacks at the end meet few images.

Example:
    python recipes/robustness.py --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --workdir=runs/worst
"""

from collections.abc import Sequence

from keras_traps.commands import command_line


def _parser() -> command_line.Parser:
    parser = command_line.Parser(__doc__, prog="robustness.py")
    command_line.add_traps(parser)
    command_line.add_attacks(parser, "all of the preset, in its order")
    about = "What is attacked: the classifier, or a variant of the trapped model."
    subjects = ("undefended", *command_line.VARIANTS)
    parser.flag("subject", about, default="paper", options=subjects)
    return parser


def main(argv: Sequence[str]) -> None:
    """Traps, attacks, and writes `worst_case.json` into the work directory."""
    arguments = _parser().parse(argv)

    from keras_traps.commands import trapping
    from keras_traps.evaluation.metrics import clean_accuracy
    from keras_traps.evaluation.render import percent
    from keras_traps.evaluation.report import write_worst_case
    from keras_traps.evaluation.runner import worst_case
    from keras_traps.evaluation.subjects import attractor_subjects, choose_examples
    from keras_traps.evaluation.warnings import find_doubts
    from keras_traps.models.forms import class_answers
    from keras_traps.models.logits import logits_model

    trapping.begin(arguments)
    train, test = trapping.load_data(arguments)
    chosen = trapping.choose_attacks(arguments)
    trapped = trapping.trap(arguments, train, test)
    test, defence = trapped.test, trapped.defence
    store = trapping.open_store(arguments, trapped, train, test)
    model, output, bounds = defence.classifier, defence.output, defence.bounds
    outputs = class_answers(model, test.images, output, bounds)
    with command_line.refusing():
        examples = choose_examples(
            test,
            [outputs],
            num_examples=arguments.num_examples,
            seed=arguments.seed,
            logits=logits_model(model, output),
            bounds=bounds,
        )
    [subject] = attractor_subjects(defence, examples, [arguments.subject])
    found = worst_case(
        subject,
        chosen,
        store,
        background=train.images,
        seed=arguments.seed,
        chunk_size=arguments.chunk_size,
        engine=arguments.engine,
    )
    facts = {**trapped.provenance, "attack settings": trapping.preset_name(arguments)}
    fpr, workdir = max(defence.analyzers), arguments.workdir
    clean = clean_accuracy(outputs.argmax(axis=1), test.labels, outputs.shape[1])
    told = find_doubts(subject, found)
    paths = write_worst_case(
        found, chosen, workdir, fpr=fpr, clean=clean, warnings=told, provenance=facts
    )
    print(f"{'attack':<10} {'still stood':>11} {'got through':>11}")
    for name, count in found.tried.items():
        print(f"{name:<10} {count:>11} {found.felled[name]:>11}")
    value = percent(found.overall.value)
    print(f"Any attack: {value} % of {found.overall.total} images")
    for warning in told:
        print(f"Warning: {warning}")
    print(f"Written: {paths.json}")


if __name__ == "__main__":
    command_line.run(main)
