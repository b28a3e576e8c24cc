"""Figure 6: a trapdoored model whose trapdoors do not show in its gradient."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks import Attack
from keras_traps.attractors import (
    Counterexample,
    TrapdoorAnalyzer,
    gradient_norms,
    output_norms,
    scores_of,
)
from keras_traps.datasets import Dataset
from keras_traps.evaluation.candidates import choose_candidates
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.figures.curves import Values, draw_panel
from keras_traps.evaluation.figures.study import (
    Goal,
    Study,
    picture,
    quantiles,
    text_table,
)
from keras_traps.evaluation.figures.trapdoor_attacks import (
    CALIBRATED_ON,
    FPR,
    WAYS,
    attack_row,
    attack_table,
    make_subject,
    quiet_trapdoors,
    rates,
)
from keras_traps.evaluation.report.blocks import Paragraph
from keras_traps.evaluation.report.canvas import Scheme, to_png
from keras_traps.evaluation.report.formatting import listing, nominal, percent
from keras_traps.models.inference import predict
from keras_traps.models.logits import logits_model

_ALLOWED = 0.10
_NAMES = {
    "n1": "‖N1‖₁, N1 = D W",
    "n2": "‖N2‖₁, N2 = (1 - D) C",
    "m1": "M1 = ‖∇J of N1‖₁",
    "m2": "M2 = ‖∇J of N2‖₁",
    "whole": "‖∇J of N1 + N2‖₁",
}


def figure_6(
    defence: Defence,
    chosen: Sequence[Attack],
    train: Dataset,
    test: Dataset,
    *,
    amplitude: float,
    num_attacked: int,
    seed: int = 0,
) -> Study:
    """Builds the trapdoored counter-example, measures its parts and attacks it.

    Args:
        defence: The classifier; its traps are attacked for comparison.
        chosen: The attacks.
        train: Training images, from which trapdoors and thresholds are set.
        test: Clean images.
        amplitude: How much a trapdoor changes a pixel, between 0 and 1.
        num_attacked: How many images are attacked at most.
        seed: Seed of trapdoors, targets and attacks. Defaults to `0`.

    Returns:
        Figure 6 of the attractor paper.
    """
    started = time.perf_counter()
    subject = make_subject(defence, train, amplitude, "random", seed)
    analyzer = TrapdoorAnalyzer.fit(subject, train.images[:CALIBRATED_ON], fpr=FPR)
    values = _magnitudes(subject, test)
    ratio = float(np.median(values["m2"] / np.maximum(values["m1"], 1e-38)))
    ahead = float(np.mean(values["m2"] > values["m1"]))
    goals, training = _training_goals(defence, subject, test)
    candidates = choose_candidates(
        predict(defence.classifier, test.images),
        test,
        num_examples=num_attacked,
        seed=seed,
        logits=logits_model(defence.classifier, defence.output),
    )
    unattacked = {
        "clean": rates(analyzer, test.images),
        "with a trapdoor": rates(analyzer, subject.plant(test.images, goals)),
    }
    rows = [
        attack_row(attack, defence, analyzer, candidates, seed) for attack in chosen
    ]
    worst = _worst_excess(rows, unattacked["clean"])
    quiet = quiet_trapdoors(defence, chosen, train, test, candidates, amplitude, seed)
    seconds = time.perf_counter() - started

    def draw(scheme: Scheme) -> bytes:
        return _draw(values, scheme)

    name = f"figure6_{test.name}"
    return Study(
        name=name,
        title=f"Figure 6 on {test.name}: trapdoors that do not catch attacks",
        subtitle=f"{len(test):,} clean test images, {seconds:.0f} s",
        blocks=(
            picture(
                name,
                "Densities of the outputs and gradients of the two terms",
                "The trapdoored model is N1 + N2 with N1 = D W and N2 = (1 - D) C: W "
                "decodes trapdoors, D detects them. Densities over clean images, each "
                "scaled to its own peak, on logarithmic axes. (a) 1-norms of the "
                "outputs. (b) 1-norms of the gradients of J(x, true class) with "
                "respect to the pixels, in [0, 1].",
                draw,
            ),
            text_table(
                "What trapdoor training asks for, in per cent",
                ["", "Found"],
                [
                    ("accuracy of C on clean images", percent(training["accuracy_c"])),
                    ("accuracy of the model", percent(training["accuracy"])),
                    (
                        "images with a trapdoor that are answered with its class",
                        percent(training["trapdoor_success"]),
                    ),
                ],
            ),
            text_table(
                "Magnitudes on clean images: median and the range from the 5 % to the "
                "95 % quantile",
                ["", "Median", "5 %", "95 %"],
                [
                    (label, *(f"{v:.3g}" for v in quantiles(values[key]).values()))
                    for key, label in _NAMES.items()
                ],
            ),
            attack_table(unattacked, rows, len(candidates.ids)),
            Paragraph(
                f"Each way of looking for trapdoors is set to {FPR:.0%} false "
                "positives on clean training images. Of attacked images those count "
                "that fool the model. Its decoder: the conditions C1 to C3 on W. "
                "Signatures: cosine similarity of W's inner products with their mean "
                "over images with the trapdoor of the class that is answered, as the "
                "trapdoor's authors detect it. The last column is this project's "
                f"analyzer, set to {nominal(defence.main_analyzer.thresholds.fpr)}, on "
                "the same classifier with attractors, under the same attacks."
            ),
            Paragraph(
                "How much an attack's noise shows by chance depends on the trapdoors. "
                "Where each block of 2x2 pixels of a trapdoor adds up to 0, clean "
                "images correlate less with it, and more of the noise stands out: "
                f"then W's conditions flag {_listed(quiet)}. That is noise, not a "
                "trapdoor."
            ),
        ),
        numbers={
            "images": len(test),
            "attacked": len(candidates.ids),
            "seconds": round(seconds, 1),
            "amplitude": amplitude,
            "training_goals": training,
            "magnitudes": {key: quantiles(array) for key, array in values.items()},
            "median_ratio_m2_m1": ratio,
            "m2_above_m1": ahead,
            "unattacked": unattacked,
            "attacks": rows,
            "quiet_trapdoors": quiet,
        },
        goals=(
            Goal(
                "The gradient on clean images is that of N2",
                "median of M2 / M1 above 1",
                f"{ratio:.2g}; M2 above M1 on {ahead:.1%} of the images",
                ratio > 1,
            ),
            Goal(
                f"Detected above the false positives, worst of {len(rows)} attacks "
                "and any way of looking",
                f"at most {_ALLOWED:.0%}",
                f"{worst:.1%}",
                worst <= _ALLOWED,
            ),
        ),
    )


def _magnitudes(subject: Counterexample, test: Dataset) -> dict[str, FloatArray]:
    parts = {"1": subject.n1, "2": subject.n2}
    found = {}
    for number, model in parts.items():
        scores = scores_of(model, "scores")
        found[f"n{number}"] = output_norms(scores, test.images)
        found[f"m{number}"] = gradient_norms(scores, test.images, test.labels)
    whole = scores_of(subject.model, "scores")
    found["whole"] = gradient_norms(whole, test.images, test.labels)
    return found


def _training_goals(
    defence: Defence, subject: Counterexample, test: Dataset
) -> tuple[IntArray, dict[str, float]]:
    """A wrong class for each image, and how the model does on what it is made for."""
    draw = np.random.default_rng(0)
    shift = draw.integers(1, test.num_classes, len(test))
    goals: IntArray = (test.labels + shift) % test.num_classes
    planted = predict(subject.model, subject.plant(test.images, goals)).argmax(axis=1)
    alone, together = (
        predict(model, test.images).argmax(axis=1) == test.labels
        for model in (defence.classifier, subject.model)
    )
    return goals, {
        "accuracy_c": float(alone.mean()),
        "accuracy": float(together.mean()),
        "trapdoor_success": float((planted == goals).mean()),
    }


def _worst_excess(
    rows: Sequence[Mapping[str, Any]], clean: Mapping[str, float | None]
) -> float:
    """The most that any attack is flagged above the false positives, in any way."""
    return max(
        (row[way] - (clean[way] or 0.0) for row in rows for way in WAYS if row[way]),
        default=0.0,
    )


def _listed(found: Mapping[str, Mapping[str, float | None]]) -> str:
    return listing(
        [f"{percent(rate['by_decoder'])} % of {name}" for name, rate in found.items()],
        most=9,
    )


def _draw(values: dict[str, FloatArray], scheme: Scheme) -> bytes:
    figure = Figure(figsize=(9.6, 3.3), layout="constrained", facecolor=scheme.ground)
    left, right = figure.subplots(1, 2)
    panels: tuple[tuple[Any, dict[str, Values], str], ...] = (
        (
            left,
            {"N2 (C)": values["n2"], "N1 (W)": values["n1"]},
            "(a) 1-norm of the output",
        ),
        (
            right,
            {"M2 (C)": values["m2"], "M1 (W)": values["m1"]},
            "(b) 1-norm of the gradient of J, per unit of pixel value",
        ),
    )
    for axes, samples, label in panels:
        draw_panel(axes, samples, scheme, label, logarithmic=True)
    return to_png(figure)
