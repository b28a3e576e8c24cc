r"""Makes a task of many classes from one of few: each class becomes several clusters.

What the classifier's last hidden layer makes of the training images of each class is
parted by k-means. The new labels say in which part an image lies, and a new last layer
learns them. The clusters are no things that people tell apart: the task shows how traps
behave where there are many classes, and nothing else. Its archive and its classifier
are for `recipes/attractors.py`.

Example:
    python recipes/clusters.py --dataset=cifar10 --data_dir=data \
        --model=deepsec_cifar10.npz --per_class=10 --output=runs/cifar10_clusters
    python recipes/attractors.py attack --dataset=runs/cifar10_clusters.npz \
        --model=runs/cifar10_clusters.keras --workdir=runs/many_classes
"""

from collections.abc import Sequence
from pathlib import Path

from keras_traps.commands import command_line
from keras_traps.commands.command_line import CommandLineError, count, refusing

_EPOCHS, _BATCH_SIZE, _LEARNING_RATE = 20, 100, 1e-2


def _parser() -> command_line.Parser:
    parser = command_line.Parser(__doc__, prog="clusters.py")
    command_line.add_data(parser)
    about = "The classifier: a .keras file, or a DEEPSEC .npz state dict."
    parser.flag("model", about, command_line.file, required=True)
    about = "Into how many clusters each class is parted."
    parser.flag("per_class", about, count, default=10)
    about = "The seed of k-means and of the new layer."
    parser.flag("seed", about, command_line.whole, default=0)
    about = "Where the archive and the classifier go: a path without its ending."
    parser.flag("output", about, command_line.path, required=True)
    return parser


def main(argv: Sequence[str]) -> None:
    """Clusters, trains the last layer, and saves both."""
    arguments = _parser().parse(argv)

    import keras
    import numpy as np
    from sklearn.cluster import KMeans

    from keras_traps.commands import trapping
    from keras_traps.models.forms import check_data
    from keras_traps.models.inference import predict
    from keras_traps.models.training import compile_classifier, save_model

    train, test = trapping.load_data(arguments)
    classifier = trapping.load_classifier(arguments.model, arguments.dataset)
    with refusing():
        check_data(classifier, test, name="--model")
    last = classifier.layers[-1]
    if not isinstance(last, keras.layers.Dense):
        raise CommandLineError("--model: its last layer has to be a dense one")
    hidden = keras.Model(classifier.inputs, last.input)
    features = [predict(hidden, data.images) for data in (train, test)]
    labels = [np.empty(len(data), np.int64) for data in (train, test)]
    for own in range(train.num_classes):
        parts = KMeans(arguments.per_class, random_state=arguments.seed, n_init=3)
        parts.fit(features[0][train.labels == own])
        for found, data, values in zip(labels, (train, test), features, strict=True):
            rows = data.labels == own
            found[rows] = own * arguments.per_class + parts.predict(values[rows])
    keras.utils.set_random_seed(arguments.seed)
    classes = train.num_classes * arguments.per_class
    head = keras.layers.Dense(classes)
    learner = keras.Sequential([keras.Input(hidden.output_shape[1:]), head])
    compile_classifier(learner, keras.optimizers.Adam(_LEARNING_RATE))
    settings = {"epochs": _EPOCHS, "batch_size": _BATCH_SIZE, "verbose": 0}
    learner.fit(features[0], labels[0], **settings)
    right = learner.evaluate(features[1], labels[1], verbose=0)[1]
    print(f"Test accuracy: {right:.2%} of {len(test)} images, {classes} clusters")
    path: Path = arguments.output
    with refusing():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path.with_suffix(".npz"),
            x_train=train.pixels,
            y_train=labels[0],
            x_test=test.pixels,
            y_test=labels[1],
        )
        model = keras.Model(hidden.inputs, head(hidden.output), name="clusters")
        save_model(model, path.with_suffix(".keras"))
    print(f"Saved to {path.with_suffix('.npz')} and {path.with_suffix('.keras')}")


if __name__ == "__main__":
    command_line.run(main)
