"""The card that goes with an exported model: what it is, how good, how made."""

from collections.abc import Mapping, Sequence

from keras_traps.datasets import Dataset
from keras_traps.provenance import provenance
from keras_traps.serving.exporter import Exported


def card(
    exported: Exported,
    test: Dataset,
    metrics: Mapping[str, float],
    *,
    argv: Sequence[str],
    made_by: str | None = None,
    note: str = "",
) -> str:
    """Returns a model's card as Markdown. It tells no seed.

    Args:
        exported: The version.
        test: The images that the metrics were measured on.
        metrics: Shares by name, such as accuracies.
        argv: The command line that made it: script and flags.
        made_by: A command that this one was a part of; the part that made the
            classifier is not known here. Defaults to `None`.
        note: A paragraph on the data. Defaults to `""`.

    Returns:
        The text.
    """
    facts = provenance(without_seed(argv))
    table = "\n".join(
        f"| {name.replace('_', ' ')} | {value:.2%} |" for name, value in metrics.items()
    )
    whole = "" if made_by is None else f"    {made_by}\n\nwhich runs\n\n"
    return f"""\
# {exported.path.parent.name}, version {exported.version}

Signatures: {", ".join(f"`{name}`" for name in exported.signatures)}. Images are \
float32, {" x ".join(str(size) for size in test.pixels.shape[1:])}, pixels in [0, 1].

## Data and accuracy

{test.source}; measured on its {len(test)} test images.

| | |
| :-- | --: |
{table}

{f"{note}{chr(10) * 2}" if note else ""}SHA-256 of the test data: `{test.sha256}`

## Limits

- A saved model is a white box. Who has this folder has the classifier, the messages
  and, where `analyze` or `integrated` is among the signatures, the thresholds.
- If you did not make it yourself, its secrets are public: use it to try serving, and
  make your own, with a seed of your own, for anything else.
- The false-positive rate holds for images like those it was set on. Other images, and
  other preprocessing, may be flagged more often.
- It was not attacked in the making of this card. What attacks of several kinds do to
  such models is in the reports of `recipes/attractors.py`.

## Made by

{whole}    {facts["command"]}

on {facts["date"]}, with {", ".join(f"{k} {v}" for k, v in facts["versions"].items())}.
"""


def without_seed(argv: Sequence[str]) -> list[str]:
    """Returns a command line without the secret that no reader is to get.

    Args:
        argv: Script and flags.

    Returns:
        The same, with the value of `--seed` hidden.
    """
    words: list[str] = []
    for word in argv:
        if words and words[-1] in ("-seed", "--seed"):
            words[-1] = "--seed=SECRET"
        elif word.startswith(("-seed=", "--seed=")):
            words.append("--seed=SECRET")
        else:
            words.append(word)
    return words
