"""Command lines that try one exported model."""

import json
import shlex
from pathlib import Path
from urllib.parse import quote

from keras_traps.serving.subject import Signature, Subject


def command_lines(subject: Subject, path: Path) -> tuple[str, ...]:
    """Returns lines for a shell that show, serve and ask a model.

    Args:
        subject: What was exported.
        path: Its version's folder.

    Returns:
        Lines for `saved_model_cli`, `docker` and, one for each signature, `curl`.
    """
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
