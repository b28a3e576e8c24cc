"""Version folders as TF Serving polls them: there whole, or not at all."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def check_version(version: int | None) -> None:
    """Refuses what TF Serving does not take as a version.

    Args:
        version: What the caller passed.

    Raises:
        TypeError: If it is neither an integer nor `None`.
        ValueError: If it is below 1 or above 2**63 - 1.
    """
    if version is None:
        return
    if isinstance(version, bool) or not isinstance(version, int):
        raise TypeError(
            "Invalid value for argument `version`. Expected an integer or None. "
            f"Received: version={version!r}"
        )
    if not 1 <= version < 2**63:
        raise ValueError(
            "Invalid value for argument `version`. Expected an integer from 1 to "
            f"2**63 - 1. Received: version={version}"
        )


def versions(directory: Path) -> tuple[int, ...]:
    """Returns the versions in a model's folder, the smallest first.

    Args:
        directory: The folder; it need not exist.

    Returns:
        Every number that names something in it, as TF Serving reads numbers.
    """
    if not directory.is_dir():
        return ()
    names = (path.name for path in directory.iterdir())
    return tuple(sorted({int(name) for name in names if _is_number(name)}))


def check_free(directory: Path, version: int | None) -> None:
    """Refuses a version that is there, and a place that is not a folder.

    Args:
        directory: The model's folder; it need not exist.
        version: The version, or `None` for the next one.

    Raises:
        FileExistsError: If the version exists.
        NotADirectoryError: If `directory` is a file.
    """
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(
            "Invalid value for argument `directory`. Expected a folder. "
            f"Received a file: {str(directory)!r}"
        )
    if version in versions(directory):
        raise FileExistsError(
            f"Invalid value for argument `version`. Expected a version that is not in "
            f"{str(directory)!r}. Received: version={version}; there are "
            f"{', '.join(map(str, versions(directory)))}"
        )


@contextlib.contextmanager
def staging(directory: Path) -> Iterator[Path]:
    """Gives a folder beside the versions, whose name no server takes for one.

    Args:
        directory: The model's folder; made with its parents where it does not exist.

    Yields:
        An empty folder. It is removed at the end if it was not published; so is
        `directory` if it was made for it and nothing else is in it.

    Raises:
        OSError: If it cannot be made.
    """
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    folder = directory / f".exporting-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                directory.rmdir()


def publish(folder: Path, directory: Path, version: int | None) -> int:
    """Renames a finished folder to a version, in one step.

    Args:
        folder: What `staging` gave.
        directory: The model's folder.
        version: Its version. The highest there is plus 1 where it is `None`.

    Returns:
        The version.

    Raises:
        FileExistsError: If the version came into being meanwhile.
        OSError: If it cannot be renamed.
    """
    while True:
        check_free(directory, version)
        number = version or max(versions(directory), default=0) + 1
        try:
            # Refused by the system where a folder with something in it is there.
            folder.rename(directory / str(number))
        except OSError:
            if number not in versions(directory) or version is not None:
                check_free(directory, version)
                raise
        else:
            return number


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()
