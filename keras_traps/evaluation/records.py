"""What each attack made of each image, on disk, so that a run can go on.

A record is one attack on one model over one chunk of the candidates: a small `.npz`
file that appears whole or not at all. A run that is interrupted loses the chunk it was
at, and nothing else.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray, IntArray
from keras_traps._files import make_writable, write_atomically

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Kind = TypeVar("_Kind", bound="DataclassInstance")

_RECORDS = "records"
_SETTINGS = "settings.json"
_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Record:
    """What one attack made of some images; arrays have one row per image.

    Args:
        ids: Index in the test set.
        labels: True class.
        goals: Target of a targeted attack, else the true class.
        answers: What the attacked model answers on the adversarial image.
        correlations: `(images, classes)`: W on the adversarial image.
        l0: How many values changed.
        l2: L2 distance to the clean image, pixels in [0, 1].
        linf: Largest change of a value.
        iterations: How many steps the attack spent.
        kept: `(at most images, ...)`: the first adversarial images themselves.
    """

    ids: IntArray
    labels: IntArray
    goals: IntArray
    answers: IntArray
    correlations: FloatArray
    l0: IntArray
    l2: FloatArray
    linf: FloatArray
    iterations: IntArray
    kept: FloatArray

    def succeeded(self, *, targeted: bool) -> npt.NDArray[np.bool_]:
        """Returns which attacks met their goal, `(images,)`."""
        reached: npt.NDArray[np.bool_] = (
            self.answers == self.goals if targeted else self.misclassified
        )
        return reached

    @property
    def misclassified(self) -> npt.NDArray[np.bool_]:
        """Which images the model now takes for another class, `(images,)`."""
        wrong: npt.NDArray[np.bool_] = self.answers != self.labels
        return wrong

    @staticmethod
    def join(records: Sequence[Record]) -> Record:
        """Joins the records of an attack's chunks into one."""
        return Record(
            *(
                np.concatenate([getattr(record, field.name) for record in records])
                for field in dataclasses.fields(Record)
            )
        )


class ArrayStore(Generic[_Kind]):
    """Records of one kind, in a directory of their own.

    Args:
        kind: A dataclass whose fields are all arrays.
        workdir: The directory; made if it does not exist.
        settings: All that the records depend on, as plain data.
        resume: Whether records that are already there are to be kept. Defaults to
            `False`.

    Raises:
        OSError: If the directory cannot be written to.
        FileExistsError: If it holds records and `resume` is false.
        ValueError: If its records were made with other settings (the message names
            them), or its settings are damaged.
    """

    def __init__(
        self,
        kind: type[_Kind],
        workdir: str | Path,
        settings: dict[str, Any],
        *,
        resume: bool = False,
    ) -> None:
        self._kind = kind
        self._directory = Path(workdir) / _RECORDS
        wanted = json.loads(json.dumps({"format": _FORMAT, **settings}))
        check_workdir(workdir, resume=resume)
        path = self._directory / _SETTINGS
        if path.exists():
            _check_settings(path, wanted)
        elif any(self._directory.rglob("*.npz")):
            raise ValueError(
                f"The directory {self._directory} holds records without their "
                f"{_SETTINGS}, so that what made them is unknown. Choose another "
                "`--workdir`."
            )
        else:
            write_atomically(path, json.dumps(wanted, indent=1).encode())

    def has(self, variant: str, attack: str, chunk: int) -> bool:
        """Says whether a chunk is done."""
        return self._path(variant, attack, chunk).exists()

    def write(self, variant: str, attack: str, chunk: int, record: _Kind) -> None:
        """Writes a chunk that is done."""
        path = self._path(variant, attack, chunk)
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        arrays = {
            field.name: getattr(record, field.name)
            for field in dataclasses.fields(self._kind)
        }
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_atomically(path, buffer.getvalue())

    def read(self, variant: str, attack: str, chunk: int) -> _Kind:
        """Reads a chunk that is done.

        Raises:
            ValueError: If its file is damaged; the message names it.
        """
        path = self._path(variant, attack, chunk)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return self._kind(
                    *(archive[field.name] for field in dataclasses.fields(self._kind))
                )
        except Exception as error:  # zipfile, zlib and NumPy each raise their own.
            raise ValueError(
                f"The record {path} is damaged ({error}). Delete it; with `--resume` "
                "it is made again."
            ) from error

    def _path(self, variant: str, attack: str, chunk: int) -> Path:
        return self._directory / variant / attack / f"{chunk:05d}.npz"


class RecordStore(ArrayStore[Record]):
    """The records of one evaluation, in a directory of their own.

    Args:
        workdir: The directory; made if it does not exist.
        settings: All that the records depend on, as plain data.
        resume: Whether records that are already there are to be kept. Defaults to
            `False`.

    Raises:
        OSError: If the directory cannot be written to.
        FileExistsError: If it holds records and `resume` is false.
        ValueError: If its records were made with other settings (the message names
            them), or its settings are damaged.
    """

    def __init__(
        self, workdir: str | Path, settings: dict[str, Any], *, resume: bool = False
    ) -> None:
        super().__init__(Record, workdir, settings, resume=resume)


def open_records(kind: type[_Kind], workdir: str | Path) -> ArrayStore[_Kind]:
    """Opens records to read them, whatever the settings they were made with.

    Args:
        kind: The dataclass that they are of.
        workdir: The directory that they are in.

    Returns:
        The records.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If their settings are damaged.
    """
    path = Path(workdir) / _RECORDS / _SETTINGS
    if not path.is_file():
        raise FileNotFoundError(f"The directory {workdir} holds no records.")
    try:
        settings = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"The settings in {path} are damaged: {error}") from error
    return ArrayStore(kind, workdir, settings, resume=True)


def check_workdir(workdir: str | Path, *, resume: bool) -> None:
    """Refuses a directory that cannot take records, before any work is done.

    Args:
        workdir: The directory; made if it does not exist.
        resume: Whether records that are already there are to be kept.

    Raises:
        OSError: If it cannot be written to.
        FileExistsError: If it holds records and `resume` is false.
    """
    directory = Path(workdir) / _RECORDS
    make_writable(directory, name="workdir")
    if (directory / _SETTINGS).exists() and not resume:
        raise FileExistsError(
            f"The directory {directory} holds records already. Go on with them by "
            "`--resume`, or choose another `--workdir`."
        )


def _check_settings(path: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        different = [
            name
            for name in sorted({*found, *wanted})
            if found.get(name) != wanted.get(name)
        ]
    except (TypeError, ValueError) as error:
        raise ValueError(f"The settings in {path} are damaged: {error}") from error
    if different:
        raise ValueError(
            f"The records in {path.parent} were made with other settings: "
            f"{', '.join(different)} differ. Choose another `--workdir`."
        )
