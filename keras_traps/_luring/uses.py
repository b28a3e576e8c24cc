"""Which flags each sub-command looks at, so that no other is taken in silence."""

from absl import app, flags

_FOLDER = {"dataset", "data_dir", "workdir", "seed", "resume", "variant", "model"}

USED = {
    "train": {
        *_FOLDER,
        *("schedule", "steps", "peak_rate", "batch_size", "stage", "validation_split"),
        *("start", "width", "loss", "luring_weight", "rotation", "shift"),
    },
    "attack": {
        *_FOLDER,
        *("preset", "threat", "attacks", "eps", "nb_iter", "softness", "sweep"),
        *("num_examples", "num_examples_sweep", "chunk_size"),
    },
    "table": _FOLDER,
    "figure": {*_FOLDER, "figure", "num_examples"},
    "pack": {*_FOLDER, "packed"},
    "demo": {"demo", "data_dir", "packed", "output"},
}
"""The flags by sub-command; those of the folder are for all, `demo` is no folder's."""


def check_used(values: flags.FlagValues, command: str) -> None:
    """Refuses flags that a sub-command does not look at.

    Args:
        values: The parsed flags.
        command: The sub-command, or `"demo"`.

    Raises:
        app.UsageError: If one is given that is another sub-command's.
    """
    others = sorted(set().union(*USED.values()) - USED[command])
    if idle := [name for name in others if values[name].present]:
        of = "--demo" if command == "demo" else command
        raise app.UsageError(f"--{idle[0]} is not for {of}.")
