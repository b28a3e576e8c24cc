"""A folder of models: M, the variants of M∘P, and what was measured of each."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import keras

from keras_traps import attacks
from keras_traps.commands.command_line import CommandLineError, Flags
from keras_traps.commands.trapping import load_classifier, load_model
from keras_traps.evaluation.records import Run, read_runs
from keras_traps.luring.schedules import Variant
from keras_traps.luring.training import join
from keras_traps.provenance import weights_sha256

VARIANTS: tuple[Variant, ...] = get_args(Variant)

# M, and one like it for an attacker without M∘P.
WHOLE = ("target", "surrogate")


class Folder(NamedTuple):
    """The models of one data set and seed."""

    path: Path
    model: Path | None
    dataset: str

    @classmethod
    def of(cls, arguments: Flags) -> "Folder":
        """Returns the folder that the flags name, which need not exist."""
        return cls(arguments.workdir, arguments.model, arguments.dataset)

    def target(self) -> keras.Model:
        """Loads M, frozen."""
        path = self.model or self.path / "target.keras"
        if not path.is_file():
            raise CommandLineError(
                f"there is no {path}: train it by --variant=target, or name one by "
                "--model"
            )
        target = load_classifier(path, self.dataset)
        target.trainable = False
        return target

    def load(self, name: str) -> keras.Model:
        """Loads what was trained: of most variants P alone."""
        path = self._there(f"{name}.keras", name)
        model = load_model(path, "--workdir")
        # Before it was measured there are no facts to compare it with.
        measured = path.with_suffix(".json").is_file()
        if measured and weights_sha256(model) != self.facts(name)["model"]:
            raise CommandLineError(
                f"{path} has other weights than {path.with_suffix('.json').name} "
                "beside it tells of: train it again in another --workdir"
            )
        return model

    def augmented(self, variant: str, target: keras.Model) -> keras.Model:
        """Loads M∘P of a variant, which returns logits as M does; or the surrogate."""
        loaded = self.load(variant)
        return loaded if variant in ("stack", "surrogate") else join(loaded, target)

    def facts(self, name: str) -> dict[str, Any]:
        """Reads what was measured of what was trained."""
        path = self._there(f"{name}.json", name)
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return facts

    def trained(self, names: Sequence[str]) -> list[str]:
        """Returns which of these were trained."""
        return [name for name in names if (self.path / f"{name}.json").is_file()]

    def variants(self, asked: Sequence[Variant] | None) -> list[str]:
        """Returns the variants that are asked for, by default all there are."""
        names = VARIANTS if asked is None else asked
        found = self.trained(names)
        if not found or (asked is not None and len(found) < len(names)):
            missing = next(name for name in names if name not in found)
            raise CommandLineError(
                f"there is no {missing} in {self.path}: train it by --variant={missing}"
            )
        return found

    def runs(self, names: Sequence[str]) -> list[Run]:
        """Reads what was run on some variants, all of it on weights that are there."""
        found = [
            run
            for run in read_runs(self.path, attacks.names())
            if run.about["variant"] in names
        ]
        for run in found:
            facts = self.facts(run.about["variant"])
            there = {"target": facts["target_sha256"], "variant": facts["model"]}
            if "surrogate" in run.facts:
                there["surrogate"] = self.facts("surrogate")["model"]
            if other := [name for name in there if run.facts[name] != there[name]]:
                raise CommandLineError(
                    f"{run.attack} {run.eps:g} on {run.subject} in {self.path} was run "
                    f"on other weights ({', '.join(other)}) than are there now: attack "
                    "again"
                )
        return found

    def _there(self, file: str, name: str) -> Path:
        path = self.path / file
        if not path.is_file():
            raise CommandLineError(f"there is no {path}: train it by --variant={name}")
        return path
