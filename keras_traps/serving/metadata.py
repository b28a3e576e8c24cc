"""What is told beside a model, and never its secrets: metadata, card, command lines."""

import datetime
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from keras_traps.datasets import Dataset
from keras_traps.provenance import provenance
from keras_traps.serving.signatures import Signature, Subject, is_trapped

if TYPE_CHECKING:
    from keras_traps.serving.exporter import Exported

DEFENSE_FILE = Path("assets.extra", "defense.json")
"""Where it lies in a version's folder."""

_FORMAT = "keras_traps.defense.v1"
_PACKAGES = ("keras-traps", "tensorflow", "tensorflow-cpu", "keras", "numpy")


def check_metadata(
    metrics: Mapping[str, float] | None, data_sha256: str | None
) -> None:
    """Refuses a metric that is not a finite number, and a hash that is none."""
    for name, value in (metrics or {}).items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(
                "Invalid value for argument `metrics`. Expected finite numbers. "
                f"Received: {name}={value!r}"
            )
    if data_sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", data_sha256):
        raise ValueError(
            "Invalid value for argument `data_sha256`. Expected 64 hexadecimal "
            f"digits. Received: data_sha256={data_sha256!r}"
        )


def write_metadata(
    subject: Subject,
    directory: Path,
    *,
    metrics: Mapping[str, float] | None,
    data_sha256: str | None,
) -> None:
    """Writes `defense.json`.

    It holds no seed, no threshold and no fingerprint of the decoder: whoever guesses
    a seed could check the guess against that. What the analyzer was fitted for is
    told only where a signature uses it.
    """
    undefended = "none" if subject.lure is None else "luring"
    content: dict[str, Any] = {
        "format": _FORMAT,
        "defence": "attractors" if is_trapped(subject.model) else undefended,
        "deploy": subject.deploy,
        "signatures": list(subject.signatures),
        "num_classes": len(subject.class_names),
        "image_shape": list(subject.image_shape),
        "data_sha256": data_sha256,
        "metrics": dict(metrics or {}),
        "versions": _versions(),
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    analyzed = {"analyze", "integrated"} & {*subject.signatures}
    if subject.analyzer is not None and analyzed:
        content["false_positive_rate"] = subject.analyzer.thresholds.fpr
    path = directory / DEFENSE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def card(
    exported: "Exported",
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
    facts = provenance(_without_seed(argv))
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


def _without_seed(argv: Sequence[str]) -> list[str]:
    words: list[str] = []
    for word in argv:
        if words and words[-1] in ("-seed", "--seed"):
            words[-1] = "--seed=SECRET"
        elif word.startswith(("-seed=", "--seed=")):
            words.append("--seed=SECRET")
        else:
            words.append(word)
    return words


def command_lines(subject: Subject, path: Path) -> tuple[str, ...]:
    """Lines for `saved_model_cli`, `docker` and, one for each signature, `curl`."""
    path = path.absolute()
    name = path.parent.name
    # The image's start script does not quote MODEL_NAME. A flag after its own counts
    # instead, and its folder is that of its default name.
    mount = shlex.quote(f"{path.parent}:/models/model:ro")
    return (
        f"saved_model_cli show --dir {shlex.quote(str(path))} --all",
        f"docker run --rm -p 8500:8500 -p 8501:8501 -v {mount} "
        f"tensorflow/serving {shlex.quote(f'--model_name={name}')}",
        *(_curl(subject, signature, name) for signature in subject.signatures),
    )


def _curl(subject: Subject, signature: Signature, name: str) -> str:
    height, width, channels = subject.image_shape
    pixel = "128" if signature == "serving_uint8" else "0.5"
    # In Python, for an image by hand would be a screen of zeros.
    instance = f"[[[{pixel}] * {channels}] * {width}] * {height}"
    if signature == "image_bytes":
        instance = "{'b64': base64.b64encode(open('image.png', 'rb').read()).decode()}"
    body = f"{{'signature_name': {signature!r}, 'instances': [{instance}]}}"
    modules = "base64, json" if signature == "image_bytes" else "json"
    script = f"import {modules}; print(json.dumps({body}))"
    url = f"http://localhost:8501/v1/models/{quote(name, safe='')}:predict"
    # json.dumps quotes for a shell too: there is no $, ` or ! in the script.
    return f"python -c {json.dumps(script)} | curl -d @- {shlex.quote(url)}"
