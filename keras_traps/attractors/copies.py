"""A key for every copy: copies of one trapped classifier, and who has which."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import keras

from keras_traps._checks import check_count, check_distinct
from keras_traps._files import write_atomically
from keras_traps.attractors.injection import TrapSettings, inject
from keras_traps.models.outputs import check_classifier
from keras_traps.ops.codes import Key
from keras_traps.provenance import weights_sha256

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Copy:
    """Whose copy, and of which version.

    Args:
        name: Who has it.
        version: How often its key was changed, from 1.
        fingerprint: That of its key.
    """

    name: str
    version: int
    fingerprint: str

    @property
    def title(self) -> str:
        """The name with the version, such as `"alice, version 2"`."""
        return f"{self.name}, version {self.version}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registry:
    """Which copies of a classifier were handed out; it holds no key.

    The keys are derived from a master key when they are needed. Make one with `of`.

    Args:
        classifier: A hash of the weights of the classifier.
        shape: The shape of an image.
        num_classes: How many classes.
        settings: What `TrapSettings.to_dict` returned.
        master: The fingerprint of the master key.
        copies: What was handed out, older versions too.
    """

    classifier: str
    shape: tuple[int, ...]
    num_classes: int
    settings: dict[str, Any]
    master: str
    copies: tuple[Copy, ...] = ()

    @classmethod
    def of(
        cls,
        classifier: keras.Model,
        settings: TrapSettings,
        master: Key,
        names: Sequence[str],
    ) -> Self:
        """Registers the first copies of a classifier.

        Args:
            classifier: A built classifier, as `inject` takes it.
            settings: The constants of all copies; their key plays no part.
            master: The secret that the keys are derived from, of at least 32 bytes.
            names: Who gets a copy.

        Returns:
            A registry of one copy for each name.

        Raises:
            ValueError: If the classifier is none, the master key is too short, or a
                name comes twice or is empty.
        """
        found = cls(
            num_classes=check_classifier(classifier, settings.output),
            shape=tuple(classifier.input_shape[1:]),
            classifier=weights_sha256(classifier),
            settings=settings.to_dict(),
            master=master.fingerprint,
        )
        return found.hand_out(master, names)

    def hand_out(self, master: Key, names: Sequence[str]) -> Self:
        """Registers a copy for each name, of the next version where there is one.

        A new version is a change of keys: images that were made on the old copy are
        still traced to it, and find no traps in the new one.

        Args:
            master: The master key.
            names: Who gets a copy.

        Returns:
            A registry with these copies after the others.

        Raises:
            ValueError: If the master key is another, or a name comes twice or is empty.
        """
        self._check_master(master)
        check_distinct("names", names)
        had = Counter(copy.name for copy in self.copies)
        new = [
            Copy(name, had[name] + 1, master.derive(name, had[name] + 1).fingerprint)
            for name in names
        ]
        return dataclasses.replace(self, copies=(*self.copies, *new))

    def keys(self, master: Key) -> list[Key]:
        """Derives the keys of all copies.

        Args:
            master: The master key.

        Returns:
            A key for each of `copies`.

        Raises:
            ValueError: If the master key is another.
        """
        self._check_master(master)
        return [master.derive(copy.name, copy.version) for copy in self.copies]

    def settings_of(self, key: Key) -> TrapSettings:
        """Returns the settings of the copy that has a key.

        Args:
            key: The key of a copy.

        Returns:
            What `inject` takes.
        """
        return TrapSettings.from_dict(self.settings, key=key)

    def check(self, classifier: keras.Model) -> None:
        """Refuses another classifier than the one whose copies these are.

        Args:
            classifier: The classifier, without traps.

        Raises:
            ValueError: If its weights are others.
        """
        if (found := weights_sha256(classifier)) != self.classifier:
            raise ValueError(
                "Invalid value for argument `classifier`. Expected the one that the "
                f"registry is of, whose hash is {self.classifier[:12]}. "
                f"Received: {classifier.name!r}, {found[:12]}"
            )

    def save(self, path: str | Path) -> None:
        """Writes the registry to a JSON file.

        Args:
            path: Where to; a file there is replaced in one step.

        Raises:
            OSError: If the file cannot be written.
        """
        content = {"format": _FORMAT, **dataclasses.asdict(self)}
        write_atomically(Path(path), f"{json.dumps(content, indent=1)}\n".encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote.

        Args:
            path: The file.

        Returns:
            The registry.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If the file is damaged.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise ValueError("of another format")
            copies = tuple(Copy(**copy) for copy in content.pop("copies"))
            found = cls(**content, copies=copies)
            check_distinct("copies", [copy.title for copy in copies])
            for copy in copies:
                check_count("version", copy.version)
            # Tuples where JSON has lists.
            settings = found.settings_of(Key()).to_dict()
            return dataclasses.replace(
                found, shape=tuple(found.shape), settings=settings
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a registry: {error!r}") from error

    def _check_master(self, master: Key) -> None:
        if master.fingerprint != self.master:
            raise ValueError(
                "Invalid value for argument `master`. Expected the key whose "
                f"fingerprint is {self.master}. Received: {master!r}"
            )


def copies(
    classifier: keras.Model, registry: Registry, master: Key
) -> Iterator[tuple[Copy, keras.Model]]:
    """Traps a classifier once for each copy of a registry, each under its own key.

    Nothing is trained, and each model is made when it is asked for.

    Args:
        classifier: The classifier; its layers are shared with the copies.
        registry: Whose copies, and of which settings.
        master: The master key.

    Returns:
        Each copy with its trapped model, one after the other.

    Raises:
        ValueError: If the registry is of another classifier, or the master key is
            another.

    Example:
    >>> registry = Registry.of(classifier, calibration.settings, master, ["alice"])
    >>> for copy, trapped in copies(classifier, registry, master):
    ...     trapped.save(f"{copy.name}.keras")
    """
    registry.check(classifier)
    keys = registry.keys(master)
    return (
        (copy, inject(classifier, registry.settings_of(key)))
        for copy, key in zip(registry.copies, keys, strict=True)
    )
