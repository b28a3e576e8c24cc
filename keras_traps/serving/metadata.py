"""What is told beside a model, and never its secrets: metadata, card, command lines."""

import datetime
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jinja2

from keras_traps import __version__
from keras_traps._checks import check_number
from keras_traps.datasets import Dataset
from keras_traps.provenance import provenance
from keras_traps.serving.signatures import Signature, Subject, is_trapped

if TYPE_CHECKING:
    from keras_traps.serving.exporter import Exported


def check_metadata(
    metrics: Mapping[str, float] | None, data_sha256: str | None
) -> None:
    """Refuses a metric that is no finite number, and a hash that is none."""
    for name, value in (metrics or {}).items():
        check_number(value, name=f"metrics[{name!r}]")
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
    """Writes `defense.json`, which holds no seed, threshold or fingerprint."""
    undefended = "none" if subject.lure is None else "luring"
    content: dict[str, Any] = {
        "format": "keras_traps.defense.v1",
        "defence": "attractors" if is_trapped(subject.model) else undefended,
        "deploy": subject.deploy,
        "signatures": list(subject.signatures),
        "num_classes": len(subject.class_names),
        "image_shape": list(subject.image_shape),
        "bounds": list(subject.bounds),
        "data_sha256": data_sha256,
        "metrics": dict(metrics or {}),
        "versions": {"keras-traps": __version__, **provenance(["."])["versions"]},
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    # Only where a signature uses it.
    analyzed = {"analyze", "integrated"} & {*subject.signatures}
    if subject.analyzer is not None and analyzed:
        content["false_positive_rate"] = subject.analyzer.thresholds.fpr
    path = directory / "assets.extra" / "defense.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
    # A value may follow its flag after a space, as a word of its own.
    words = re.sub(r"(?<=\0)--?seed[=\0][^\0]*", "--seed=SECRET", "\0".join(argv))
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_traps.serving"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("card.md.j2").render(
        exported=exported,
        test=test,
        metrics=metrics,
        facts=provenance(words.split("\0")),
        made_by=made_by,
        note=note,
    )


def command_lines(subject: Subject, path: Path) -> tuple[str, ...]:
    """Lines for `saved_model_cli`, `docker` and, one for each signature, `curl`."""
    path = path.absolute()
    name = path.parent.name
    # Of bytes, for a folder's name may be no text.
    path_name = quote(os.fsencode(name), safe="")
    url = f"http://localhost:8501/v1/models/{path_name}:predict"
    # The image's start script does not quote MODEL_NAME. A flag after its own counts
    # instead, and its folder is that of its default name.
    mount = shlex.quote(f"{path.parent}:/models/model:ro")
    return (
        f"saved_model_cli show --dir {shlex.quote(str(path))} --all",
        f"docker run --rm -p 8500:8500 -p 8501:8501 -v {mount} "
        f"tensorflow/serving {shlex.quote(f'--model_name={name}')}",
        *(
            # json.dumps quotes for a shell too: there is no $, ` or ! in the script.
            f"python -c {json.dumps(_script(subject, signature))} | "
            f"curl -d @- {shlex.quote(url)}"
            for signature in subject.signatures
        ),
    )


def _script(subject: Subject, signature: Signature) -> str:
    """A request as Python writes it: by hand an image would be a screen of zeros."""
    grey = 128 if signature == "serving_uint8" else sum(subject.bounds) / 2
    instance = repr(grey)
    for size in reversed(subject.image_shape):
        instance = f"[{instance}] * {size}"
    if signature == "image_bytes":
        instance = "{'b64': base64.b64encode(open('image.png', 'rb').read()).decode()}"
    body = f"{{'signature_name': {signature!r}, 'instances': [{instance}]}}"
    modules = "base64, json" if signature == "image_bytes" else "json"
    return f"import {modules}; print(json.dumps({body}))"
