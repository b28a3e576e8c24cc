"""Makes the luring paper's tables of what was trained and attacked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from absl import app, flags

from keras_traps import datasets
from keras_traps._files import make_writable, write_atomically
from keras_traps._luring.folder import WHOLE, Folder, open_folder
from keras_traps.evaluation.luring.outcomes import attack_provenance
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.luring.report import build_report
from keras_traps.evaluation.luring.results import (
    Clean,
    Comparison,
    Measured,
    Results,
    compare,
    measure_outcomes,
)
from keras_traps.evaluation.records import open_records
from keras_traps.evaluation.report.html import to_html
from keras_traps.evaluation.report.json_report import plain
from keras_traps.evaluation.report.markdown import to_markdown
from keras_traps.provenance import provenance
from keras_traps.rates import Rate

# Of a model's file of facts, what says how it was trained.
_TRAINING = (
    "command",
    "date",
    "seed",
    "own_seed",
    "model",
    "target_sha256",
    "start_sha256",
    "steps",
    "batch_size",
    "learning_rates",
    "boundaries",
    "peak_rate",
    "validation_split",
    "validation_score",
    "picked_step",
    "rotation",
    "shift",
    "width",
    "loss",
    "luring_weight",
    "environment",
    "seconds",
)


def table(values: flags.FlagValues) -> Iterator[str]:
    """Writes Table 1 and the data set's of Tables 2 to 4, as far as there are numbers.

    Args:
        values: The parsed flags.

    Yields:
        What there is to tell.

    Raises:
        app.UsageError: If nothing was trained in the folder, or on other images.
        ValueError: If a record is damaged, or of a model that was trained again since.
    """
    folder = open_folder(values)
    names = folder.variants(values)
    outcomes = folder.outcomes(names)
    test = datasets.load(values.dataset, "test", values.data_dir)
    whole = [name for name in WHOLE if (folder.path / f"{name}.json").is_file()]
    clean = [_clean(name, folder, test) for name in [*whole, *names]]
    cells: tuple[Measured, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    if outcomes:
        store = open_records(LuringRecord, folder.path)
        cells = measure_outcomes(outcomes, store)
        comparisons = compare(cells, lambda one: one.read(store))
    results = Results(
        dataset=values.dataset,
        clean=tuple(clean),
        cells=cells,
        comparisons=comparisons,
        provenance={
            **provenance(sys.argv, test_data=test.sha256),
            **attack_provenance(outcomes),
        },
    )
    directory = folder.path / "tables"
    make_writable(directory, name="workdir")
    document = build_report(results)
    content = json.dumps(plain(results), indent=1, ensure_ascii=False, allow_nan=False)
    for suffix, text in (
        ("json", content + "\n"),
        ("md", to_markdown(document)),
        ("html", to_html(document)),
    ):
        write_atomically(directory / f"luring.{suffix}", text.encode())
    yield f"Tables: {directory / 'luring.html'}"


def _clean(name: str, folder: Folder, test: datasets.Dataset) -> Clean:
    facts = folder.facts(name)
    if facts["test_data"] != test.sha256:
        raise app.UsageError(
            f"{name} in {folder.path} was measured on other test images than those of "
            f"--dataset={test.name}."
        )

    def rate(key: str) -> Rate:
        return Rate(round(facts[key] * len(test)), len(test))

    alone = name == "target"
    return Clean(
        variant=name,
        test=rate("test"),
        agree=None if alone else rate("agree"),
        same=None if alone else rate("same"),
        parameters=facts["parameters"],
        facts={key: facts[key] for key in _TRAINING if facts.get(key) is not None},
    )
