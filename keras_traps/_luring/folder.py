"""A folder of models: M, the variants of M∘P, and what was measured of each."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import keras
from absl import app, flags

from keras_traps import attacks
from keras_traps._classifier_files import load_classifier
from keras_traps._flags import Flags
from keras_traps._recipe import check_required
from keras_traps.evaluation.luring.outcomes import Outcome, read_outcomes
from keras_traps.luring.schedules import Variant
from keras_traps.luring.variants import join
from keras_traps.provenance import weights_sha256

VARIANTS: tuple[Variant, ...] = get_args(Variant)

WHOLE = ("target", "surrogate")
"""M, and one like it for an attacker without M∘P."""

TRAINED = (*WHOLE, *VARIANTS)
"""What the sub-command `train` trains."""

Dataset = Literal["mnist", "svhn_cropped", "cifar10", "digits"]


def define_flags(define: Flags) -> None:
    """Defines the flags that say what is trained, and where it is kept.

    Args:
        define: Where to define them.
    """
    define.choice("dataset", "digits", Dataset, "The data set.")
    define.text("data_dir", None, "The folder that holds the data set; see the README.")
    define.text("workdir", None, "The folder for the models, and what is said of them.")
    define.integer(
        "seed",
        0,
        "The seed of weights, of images' order, choice and moves, and of attacks.",
        low=0,
    )
    define.switch("resume", False, "Whether to go on in a --workdir in use.")


class Folder(NamedTuple):
    """The models of one data set and seed.

    Args:
        path: Where they are.
        model: The classifier M that was brought, if any.
        dataset: The data set's name.
    """

    path: Path
    model: Path | None
    dataset: str

    @property
    def target_path(self) -> Path:
        """The file of M."""
        return self.model or self.path / "target.keras"

    def target(self) -> keras.Model:
        """Loads M, frozen.

        Raises:
            app.UsageError: If it is not there.
        """
        if not self.target_path.is_file():
            raise app.UsageError(
                f"There is no {self.target_path}: train it by --variant=target, or "
                "name one by --model."
            )
        target = load_classifier(self.dataset, self.target_path)
        target.trainable = False
        return target

    def load(self, name: str) -> keras.Model:
        """Loads what was trained: of most variants P alone.

        Raises:
            app.UsageError: If it is not there.
            ValueError: If it has other weights than those that were measured.
        """
        path = self.path / f"{name}.keras"
        if not path.is_file():
            raise app.UsageError(f"There is no {path}: train it by --variant={name}.")
        model = keras.saving.load_model(path, compile=False)
        # Before it was measured there are no facts to compare it with.
        measured = path.with_suffix(".json").is_file()
        if measured and weights_sha256(model) != self.facts(name)["model"]:
            raise ValueError(
                f"{path} has other weights than {path.with_suffix('.json').name} "
                "beside it tells of. Train it again in another --workdir."
            )
        return model

    def augmented(self, variant: str, target: keras.Model) -> keras.Model:
        """Loads M∘P of a variant, which returns logits as M does; or the surrogate."""
        loaded = self.load(variant)
        return loaded if variant in ("stack", "surrogate") else join(loaded, target)

    def facts(self, name: str) -> dict[str, Any]:
        """Reads what was measured of what was trained.

        Raises:
            app.UsageError: If it was not trained.
        """
        path = self.path / f"{name}.json"
        if not path.is_file():
            raise app.UsageError(f"There is no {path}: train it by --variant={name}.")
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return facts

    def outcomes(self, names: Sequence[str]) -> list[Outcome]:
        """Reads what was run on some variants.

        Raises:
            ValueError: If a file is damaged, or of weights that are no more.
        """
        found = read_outcomes(self.path, attacks.names())
        chosen = [outcome for outcome in found if outcome.variant in names]
        for outcome in chosen:
            self._check(outcome)
        return chosen

    def _check(self, outcome: Outcome) -> None:
        facts = self.facts(outcome.variant)
        there = {"target": facts["target_sha256"], "variant": facts["model"]}
        if "surrogate" in outcome.weights:
            there["surrogate"] = self.facts("surrogate")["model"]
        if changed := [name for name in there if outcome.weights[name] != there[name]]:
            raise ValueError(
                f"{outcome.attack} {outcome.eps:g} ({outcome.threat}) on "
                f"{outcome.variant} in {self.path} was run on other weights "
                f"({', '.join(changed)}) than are there now. Attack again."
            )

    def variants(self, values: flags.FlagValues) -> list[str]:
        """Returns the variants that `--variant` names, by default all there are.

        Raises:
            app.UsageError: If one that is named is no variant of M∘P, or none is there.
        """
        there: list[str] = [
            name for name in VARIANTS if (self.path / f"{name}.json").is_file()
        ]
        if not values["variant"].present:
            if not there:
                raise app.UsageError(
                    f"There is no variant of M∘P in {self.path}: train some by "
                    "--variant."
                )
            return there
        if wrong := [name for name in values.variant if name not in VARIANTS]:
            raise app.UsageError(
                f"--variant must be of {', '.join(VARIANTS)} here. Received: "
                f"{', '.join(wrong)}"
            )
        for name in values.variant:
            self.facts(name)
        return [name for name in VARIANTS if name in values.variant]


def open_folder(values: flags.FlagValues) -> Folder:
    """Returns the folder that the flags name.

    Args:
        values: The parsed flags.

    Returns:
        The folder, which need not exist.

    Raises:
        app.UsageError: If `--workdir` is missing.
    """
    check_required(values, ["workdir"])
    brought = Path(values.model).expanduser() if values.model else None
    return Folder(Path(values.workdir).expanduser(), brought, values.dataset)
