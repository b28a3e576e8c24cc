"""One frame with a row for each attack on each image, and the tables that it holds.

Every number of a report is a view of the frame: it is grouped, and shares are counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from keras_traps._checks import IntArray
from keras_traps.evaluation.records import RecordStore, Run
from keras_traps.evaluation.subjects import RecordJudge
from keras_traps.luring.metrics import LuringMetrics, luring_metrics
from keras_traps.models.outputs import chance_of, is_near_chance
from keras_traps.rates import Rate

LEVEL = 0.05
"""A pair whose `p_value` is below this is taken to be beyond chance."""

ANY_LOSS = "any_loss"
"""All subjects together that attack M itself, each with a loss of its own."""

# The paper's Tables I, V and VI show these beside the attack on C.
_BESIDE_C = ("paper", "integrated", "integrated_label")
_OF_RUN = ("subject", "attack", "kind", "knowledge", "eps")
_RENAMED = {"ids": "id", "labels": "label", "targets": "goal"}


def make_frame(
    runs: Iterable[Run], store: RecordStore, detector: RecordJudge | None = None
) -> pd.DataFrame:
    """Reads what became of each image that was attacked.

    Returns:
        A row for each subject, attack, radius and image: `subject`, `attack`, `kind`,
        `knowledge`, `eps`, `integrated`, the columns that else name the subject, `id`,
        `label`, `goal` (the class aimed at, else the label), `answer`, `success`,
        `misclassified`, `l0`, `l2`, `linf`, `iterations`, and what else was recorded
        with one number for each image. Of luring `defended`, which DAC counts. Where
        the record has what a detector asks for, `score`, `pull` if it has one, and for
        each of its rates `flagged_<fpr>`, `recovered_<fpr>` (flagged, and given the
        true class) and `through_<fpr>` (misclassified and not flagged; of an integrated
        model, where flagging is part of the answer, misclassified).

    Raises:
        ValueError: If a record is damaged, or not there.
    """
    parts = [_part(run, store, detector) for run in runs]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    for name in frame.columns:
        # Beside subjects that nothing watches, those of the others have gaps.
        if name.startswith("through_"):
            frame[name] = frame[name].where(frame[name].notna(), frame["misclassified"])
        if name.startswith(("flagged_", "recovered_", "through_")):
            frame[name] = frame[name].eq(True)
    return frame


def _part(run: Run, store: RecordStore, detector: RecordJudge | None) -> pd.DataFrame:
    record = run.read(store)
    columns: dict[str, Any] = {
        **{name: getattr(run, name) for name in _OF_RUN},
        "integrated": run.integrated,
        **run.about,
        "success": record.succeeded(targeted=run.kind == "TA"),
        "misclassified": record.misclassified,
        **{k: each for k, each in record.arrays.items() if each.ndim == 1},
    }
    if record.defended is not None:
        columns["defended"] = record.defended
    if detector is not None and set(detector.asked) <= set(record.arrays):
        found = detector.judge(record)
        columns["score"] = found.score
        if found.pull is not None:
            columns["pull"] = found.pull
        for fpr, flagged in found.flagged.items():
            columns[f"flagged_{fpr:g}"] = flagged
            unseen = run.integrated | ~flagged
            columns[f"through_{fpr:g}"] = record.misclassified & unseen
            right = found.recovered is not None and found.recovered == record["labels"]
            columns[f"recovered_{fpr:g}"] = flagged & right
    return pd.DataFrame(columns).rename(columns=_RENAMED)


def fprs_of(frame: pd.DataFrame) -> list[float]:
    """Returns the rates that a frame has columns for, the largest first."""
    found = (name.split("_", 1) for name in frame.columns)
    return sorted((float(x[1]) for x in found if x[0] == "flagged"), reverse=True)


def rate_of(flags: pd.Series | npt.NDArray[np.bool_]) -> Rate:
    """Counts how often something holds."""
    return Rate(int(flags.sum()), len(flags))


def clean_accuracy(
    answers: IntArray, labels: IntArray, num_classes: int
) -> dict[str, Any]:
    """Tells how often a classifier is right on clean images, and beside chance."""
    right, chance = rate_of(answers == labels), chance_of(answers, labels, num_classes)
    near = is_near_chance(right.value or 0.0, chance)
    return {"accuracy_classifier": right, "chance": chance, "near_chance": near}


def attack_rows(frame: pd.DataFrame, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Makes the rows of Tables I and III to VI, one for each attack on each variant."""
    cells = dict(iter(frame.groupby(["subject", "attack"])))
    rows = []
    for run in runs:
        if run.subject == "undefended":
            continue
        part, fooled, distance = cells[run.subject, run.attack], None, None
        beside = cells.get(("undefended", run.attack))
        if beside is not None and run.subject in _BESIDE_C:
            fooled, distance = rate_of(beside["success"]), _mean_l2(beside)
        success, detection, area = part["success"], [], None
        if success.any() and not run.integrated:
            # As DEEPSEC takes it: successful images against the same before.
            scores = part.loc[success, ["score", "clean_score"]].to_numpy()
            area = float(roc_auc_score([1, 0] * len(scores), scores.ravel()))
        for fpr in fprs_of(frame):
            flagged, recovered = part[f"flagged_{fpr:g}"], part[f"recovered_{fpr:g}"]
            detection.append(
                {
                    "fpr": fpr,
                    "detected": rate_of(flagged[success]),
                    "recovered": rate_of(recovered[success & flagged]),
                    "overall": rate_of(success & ~flagged),
                }
            )
        rows.append(
            {
                "variant": run.subject,
                "attack": run.attack,
                "kind": run.kind,
                "settings": run.settings,
                "note": run.note,
                "success_classifier": fooled,
                "success_trapped": rate_of(success),
                "detection": [] if run.integrated else detection,
                "auc": area,
                "mean_l2": _mean_l2(part),
                "mean_l2_classifier": distance,
                # The integrated model is made with the analyzer of the largest rate.
                "unflagged": detection[0]["overall"] if run.integrated else None,
            }
        )
    return rows


def _mean_l2(part: pd.DataFrame) -> float | None:
    # By NumPy, which keeps the precision of the records.
    distances = part.loc[part["success"], "l2"].to_numpy()
    return float(distances.mean()) if len(distances) else None


def worst_cases(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Counts the images that at least one attack got through with."""
    watched = frame[frame["subject"] != "undefended"]
    parts = list(watched.groupby("subject", sort=False))
    losses = watched[~watched["integrated"]]
    if losses["subject"].nunique() > 1:
        parts.append((ANY_LOSS, losses))
    found = []
    for variant, part in parts:
        fprs = fprs_of(part)[: 1 if part["integrated"].any() else None]
        by_image = part.groupby("id")
        met = by_image.size() == part.groupby(["subject", "attack"]).ngroups
        wrong = rate_of(by_image["misclassified"].any()[met])
        overall = {
            fpr: rate_of(by_image[f"through_{fpr:g}"].any()[met]) for fpr in fprs
        }
        found.append({"variant": variant, "misclassified": wrong, "overall": overall})
    return found


def unnoticed(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Compares the images that fool M unnoticed with those that are noticed."""
    rows: list[dict[str, Any]] = []
    fpr = fprs_of(frame)[0]
    seen = frame[(frame["subject"] == "paper") & frame["success"]]
    for attack, part in seen.groupby("attack", sort=False):
        flagged = part[f"flagged_{fpr:g}"]
        row: dict[str, Any] = {"attack": attack, "fpr": fpr}
        for name, chosen in (("unnoticed", ~flagged), ("noticed", flagged)):
            medians = part.loc[chosen, ["lead", "pull", "l2"]].median()
            told = {key: None if np.isnan(m) else m for key, m in medians.items()}
            row[name] = {"count": int(chosen.sum()), **told}
        if not flagged.all():
            rows.append(row)
    return rows


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two outcomes on the images that both met."""

    images: int
    ahead: int
    behind: int
    shares: tuple[float, float]
    p_value: float


def compare(first: pd.Series, second: pd.Series) -> Pair:
    """Compares two outcomes image by image."""
    both = pd.concat([first, second], axis=1, join="inner").to_numpy(bool)
    one, other = both[:, 0], both[:, 1]
    ahead, behind = int((one & ~other).sum()), int((other & ~one).sum())
    differ = ahead + behind
    # Where they never differ nothing speaks for either.
    p_value = float(binomtest(ahead, differ).pvalue) if differ else 1.0
    first_share, second_share = both.sum(axis=0) / max(1, len(both))
    shares = float(first_share), float(second_share)
    return Pair(len(both), ahead, behind, shares, p_value)


@dataclasses.dataclass(frozen=True)
class CleanVariant:
    """A row of luring's Table 1: clean test images."""

    variant: str
    test: Rate
    agree: Rate | None
    same: Rate | None
    parameters: int
    facts: Mapping[str, Any]


def luring_rates(part: pd.DataFrame) -> LuringMetrics:
    """Counts what the luring paper measures of one attack's images."""
    augmented, target, labels = part[["augmented", "target", "label"]].to_numpy().T
    return luring_metrics(augmented=augmented, target=target, labels=labels)
