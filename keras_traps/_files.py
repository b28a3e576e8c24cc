"""Files that appear whole or not at all, and work that goes on as it was begun."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file beside its place and renames it in one step.

    Where it cannot be written, an older file stays as it was.
    """
    temporary = _beside(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_writable(directory: Path, *, name: str) -> None:
    """Makes a directory with its parents, and sees whether it can be written to."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = _beside(directory / "probe")
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"Invalid value for argument `{name}`. Expected a directory that can be "
            f"made and written to. Received: {str(directory)!r} ({error})"
        ) from error


def keep_settings(path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Writes what work depends on beside it, or refuses to go on with something else.

    Every kind of work that can be interrupted calls this before it begins: records of
    attacks, trained models, calibrations. `settings` are plain data: numbers, texts,
    truth values, `None`, lists and mappings of them.
    """
    # As a file would tell it: tuples are lists there, and numbers of NumPy numbers.
    wanted = json.loads(json.dumps(settings, default=_plain))
    if not path.exists():
        write_atomically(path, json.dumps(wanted, indent=1).encode())
        return
    if not resume:
        raise FileExistsError(
            f"The directory {path.parent} is in use already. Go on with what is in it "
            "by `--resume`, or choose another `--workdir`."
        )
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"The settings in {path} are damaged: {error}") from error
    different = [
        name
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
    if different:
        raise ValueError(
            f"What is in {path.parent} was made with other settings: "
            f"{', '.join(different)} differ. Choose another `--workdir`."
        )


def _plain(value: object) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(
        "Invalid value for argument `settings`. Expected numbers, texts, truth values, "
        f"and lists and mappings of them. Received: {value!r}"
    )


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
