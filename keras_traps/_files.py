"""Files that appear whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file beside its place and renames it in one step.

    Args:
        path: Where to; a file there is replaced.
        content: What to write.

    Raises:
        OSError: If it cannot be written; an older file stays as it was.
    """
    temporary = _beside(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_writable(directory: Path, *, name: str) -> None:
    """Makes a directory and sees whether it can be written to.

    Args:
        directory: Made, with its parents, if it does not exist.
        name: The argument's name in the caller.

    Raises:
        OSError: If it cannot be made or written to.
    """
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


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
