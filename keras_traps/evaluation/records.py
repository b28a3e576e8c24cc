"""What each attack made of each image, on disk, so that a run can go on.

A record is one attack on one subject over one chunk of the examples: a small `.npz`
file that appears whole or not at all. A run that is interrupted loses the chunk it was
at, and nothing else. What was run to its end is told in a small JSON file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray
from keras_traps._files import keep_settings, make_writable, write_atomically
from keras_traps.datasets import Dataset
from keras_traps.luring.metrics import defended
from keras_traps.provenance import (
    architecture_sha256,
    array_sha256,
    rounding_environment,
    weights_sha256,
)

if TYPE_CHECKING:
    from keras_traps.evaluation.subjects import Defence

_RECORDS, _RUNS, _SETTINGS = "records", "runs", "settings.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What one attack made of some images: arrays with one row per image, by name.

    These are `ids`, `labels`, `targets`, `l0`, `l2`, `linf`, `iterations`, the attacked
    model's `answer`, or that of the model that is served, what else was asked, of
    attacks that are told of a detector `rejections`, and `kept`, some of the images
    themselves.
    """

    arrays: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self["ids"])

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.arrays[name]

    @property
    def misclassified(self) -> npt.NDArray[np.bool_]:
        """Which images the model now takes for another class, `(images,)`."""
        return np.not_equal(self["answer"], self["labels"])

    def succeeded(self, *, targeted: bool) -> npt.NDArray[np.bool_]:
        """Returns which attacks met their goal, `(images,)`."""
        return self["answer"] == self["targets"] if targeted else self.misclassified

    @property
    def defended(self) -> npt.NDArray[np.bool_] | None:
        """Of luring, on which images DAC counts a success of the defence."""
        if not {"augmented", "target"} <= set(self.arrays):
            return None
        augmented, target = self["augmented"], self["target"]
        return defended(augmented=augmented, target=target, labels=self["labels"])

    def take(self, count: int) -> Record:
        """Returns the record of the first images."""
        return Record({name: each[:count] for name, each in self.arrays.items()})

    @staticmethod
    def join(records: Sequence[Record], *, kept: int) -> Record:
        """Joins records into one that keeps some of the first images whole."""
        names = records[0].arrays
        joined = {
            name: np.concatenate([one[name] for one in records]) for name in names
        }
        return Record({**joined, "kept": joined["kept"][:kept]})


class RecordStore:
    """Records in a directory of their own, which is for one kind of work.

    The directory is made if it does not exist. The settings are all that the records
    depend on, as plain data; see `record_settings`.

    Raises:
        OSError: If the directory cannot be written to.
        FileExistsError: If it holds records and `resume` is false.
        ValueError: If its records were made with other settings (the message names
            them), or its settings are damaged or missing.
    """

    def __init__(
        self,
        workdir: str | Path,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
    ) -> None:
        check_workdir(workdir, resume=resume)
        self.workdir = Path(workdir)
        path = self.workdir / _RECORDS / _SETTINGS
        if not path.exists() and any(path.parent.rglob("*.npz")):
            raise ValueError(
                f"The directory {path.parent} holds records without {_SETTINGS}: what "
                "made them is unknown. Choose another `--workdir`."
            )
        keep_settings(path, settings, resume=resume)

    @classmethod
    def open(cls, workdir: str | Path) -> RecordStore:
        """Opens records to read them, whatever the settings they were made with.

        A directory that holds none is a `FileNotFoundError`.
        """
        store = object.__new__(cls)
        store.workdir = Path(workdir)
        if not (store.workdir / _RECORDS / _SETTINGS).is_file():
            raise FileNotFoundError(f"The directory {workdir} holds no records.")
        return store

    def has(self, folder: str, chunk: int) -> bool:
        """Says whether there is a record of a chunk."""
        return self._path(folder, chunk).exists()

    def write(self, folder: str, chunk: int, record: Record) -> None:
        """Writes a record."""
        path = self._path(folder, chunk)
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **record.arrays)
        write_atomically(path, buffer.getvalue())

    def read(self, folder: str, chunk: int) -> Record:
        """Reads a record; a `ValueError` names its file if that is damaged."""
        path = self._path(folder, chunk)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return Record(dict(archive))
        except Exception as error:  # zipfile, zlib and NumPy each raise their own.
            raise ValueError(
                f"The record {path} is damaged ({error}). Delete it; with `--resume` "
                "it is made again."
            ) from error

    def _path(self, folder: str, chunk: int) -> Path:
        return self.workdir / _RECORDS / folder / f"{chunk:05d}.npz"


def check_workdir(workdir: str | Path, *, resume: bool) -> None:
    """Refuses a directory that cannot take records, before any work is done."""
    directory = Path(workdir) / _RECORDS
    make_writable(directory, name="workdir")
    if (directory / _SETTINGS).exists() and not resume:
        raise FileExistsError(
            f"The directory {directory} holds records already. Go on with them by "
            "`--resume`, or choose another `--workdir`."
        )


def record_settings(
    test: Dataset,
    *,
    seed: int,
    chunk_size: int,
    background: FloatArray | None = None,
    defence: Defence | None = None,
) -> dict[str, Any]:
    """Returns what all records depend on, but for the attacks' settings."""
    settings = {"test_data": test.sha256, "seed": seed, "chunk_size": chunk_size}
    settings |= rounding_environment()
    if background is not None:
        settings["background"] = array_sha256(background)
    if defence is not None:
        thresholds = defence.main_analyzer.thresholds
        # Equal weights may compute something else: with other preprocessing, or
        # without M's softmax. How the models are made is compared, not what they
        # answer, which each machine rounds in its own way.
        models = (defence.classifier, defence.trapped)
        settings |= {
            "classifier": weights_sha256(defence.classifier),
            "architectures": [architecture_sha256(model) for model in models],
            "output": defence.output,
            "decoder": defence.main_analyzer.decoder.fingerprint,
            "norm": defence.trapped.get_layer("normalized_sum").ord,
            "thresholds": list(thresholds.limits),
        }
    return settings


def folder_of(name: str, told: Sequence[Any]) -> str:
    """Returns a folder's name for records, of its own for other facts or settings."""
    try:
        text = json.dumps(told, sort_keys=True)
    except TypeError as error:
        raise TypeError(
            f"Invalid settings of {name!r}. Expected plain data, by which its records "
            f"are kept. Received: {told!r}"
        ) from error
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{name}-{digest[:10]}" if told else name


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting of a sweep, on the first images."""

    settings: dict[str, Any]
    images: int
    standing: int  # on how many the attack failed; of luring, M was still right
    defended: int  # the same; of luring, what DAC counts


@dataclasses.dataclass(frozen=True)
class Run:
    """An attack that was run to its end on a subject, and where its records are."""

    subject: str
    attack: str
    kind: str
    knowledge: str
    eps: float
    settings: dict[str, Any]
    note: str
    trials: tuple[Trial, ...]
    images: int
    integrated: bool
    about: dict[str, str]
    facts: dict[str, Any]
    folder: str
    chunks: int
    provenance: dict[str, Any]

    def read(self, store: RecordStore) -> Record:
        """Reads the record of all images; a `ValueError` names a damaged file."""
        parts = [store.read(self.folder, chunk) for chunk in range(self.chunks)]
        # All of a part's images are kept, or its first few.
        whole = [len(part["kept"]) == len(part) for part in parts]
        first = whole.index(False) + 1 if not all(whole) else len(parts)
        kept = sum(len(part["kept"]) for part in parts[:first])
        return Record.join(parts, kept=kept).take(self.images)

    def write(self, workdir: Path) -> None:
        """Writes what was run; what was written of the same cell before is replaced."""
        path = workdir / _RUNS / self.subject / f"{self.attack}_{self.eps:g}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(dataclasses.asdict(self), indent=1).encode())


def read_runs(workdir: str | Path, order: Sequence[str] = ()) -> list[Run]:
    """Reads all that was run in a work directory."""
    runs = []
    for path in (Path(workdir) / _RUNS).rglob("*.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            trials = tuple(Trial(**trial) for trial in content.pop("trials"))
            runs.append(Run(**content, trials=trials))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The run {path} is damaged ({error}). Delete it, and attack again "
                "with `--resume`."
            ) from error
    places = {name: place - len(order) for place, name in enumerate(order)}
    return sorted(
        runs, key=lambda r: (r.subject, places.get(r.attack, 0), r.attack, r.eps)
    )
