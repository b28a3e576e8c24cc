"""Puts the parts of a report in order, the same for Markdown and HTML."""

from __future__ import annotations

from keras_traps.evaluation.report import plots, setting_tables, summary, tables
from keras_traps.evaluation.report.blocks import (
    Block,
    Bullets,
    Document,
    Examples,
    Paragraph,
    Section,
    Tiles,
)
from keras_traps.evaluation.report.pictures import example_views
from keras_traps.evaluation.results import INTEGRATED, Evaluation

_TERMS = (
    ("C", "the undefended classifier that is to be protected."),
    (
        "W",
        "the watermark decoder that is added to it. For every class it says how "
        "strongly an image correlates with that class's hidden message. Its slopes "
        "are the traps: an attack that follows the gradient runs towards a "
        "watermarked image.",
    ),
    (
        "M",
        "the trapped model, the normalised sum of C and W. This is what is attacked.",
    ),
    (
        "Analyzer",
        "looks at W alone, flags an image as adversarial, and recovers its class as "
        "the one that W was pushed away from most.",
    ),
    (
        "UA, TA",
        "an untargeted attack wants any wrong class, a targeted one a given wrong "
        "class.",
    ),
    (
        "FPR",
        "false-positive rate: the share of clean images that the analyzer flags. Its "
        "thresholds are set for a nominal rate.",
    ),
)

_COLUMNS = (
    ("fools C, fools M", "tries that succeed, without asking the analyzer."),
    ("detected", "flagged, among the images that M gets wrong."),
    ("recovered", "given their true class again, among those flagged."),
    (
        "unnoticed",
        "the attack's overall success: wrong and not flagged, among all tries.",
    ),
    (
        "AUC",
        "area under the ROC curve of the analyzer's score; 1 is perfect, 0.5 is "
        "chance.",
    ),
    ("n/a", "nothing to count, e.g. no adversarial image was found."),
)


def build_document(evaluation: Evaluation) -> Document:
    """Turns an evaluation into a report that can be drawn.

    Args:
        evaluation: What was found; rows, examples and samples may be missing.

    Returns:
        The report, its plots drawn.
    """
    sections = (
        _summary(evaluation),
        Section(
            "provenance", "Provenance", (setting_tables.provenance_table(evaluation),)
        ),
        _clean(evaluation),
        _attacks(evaluation),
        _integrated(evaluation),
        _losses(evaluation),
        _worst_case(evaluation),
        _calibration(evaluation),
        _remarks(evaluation),
        _pictures(evaluation),
    )
    attacks = len(dict.fromkeys(row.attack for row in evaluation.rows))
    plural = "" if attacks == 1 else "s"
    return Document(
        evaluation.title, f"{evaluation.dataset}, {attacks} attack{plural}", sections
    )


def _summary(evaluation: Evaluation) -> Section:
    return Section(
        "summary",
        "Summary",
        (
            Tiles(tuple(summary.headline_tiles(evaluation))),
            *(Paragraph(text) for text in summary.summary_sentences(evaluation)),
            Paragraph(summary.BLIND, "caution"),
            *_alarm(evaluation),
            Bullets(_TERMS),
        ),
    )


def _alarm(evaluation: Evaluation) -> tuple[Paragraph, ...]:
    if not evaluation.warnings:
        return ()
    count = len(evaluation.warnings)
    text = "1 warning" if count == 1 else f"{count} warnings"
    return (
        Paragraph(
            f"There is reason for doubt in these numbers: {text}, to be read under "
            "“Warnings, notes and settings”.",
            "caution",
        ),
    )


def _clean(evaluation: Evaluation) -> Section:
    remarks = summary.false_positive_sentences(evaluation)
    return Section(
        "clean",
        "Clean images",
        (tables.clean_table(evaluation), *(Paragraph(text) for text in remarks)),
    )


def _attacks(evaluation: Evaluation) -> Section:
    if not tables.rows_of(evaluation, "paper"):
        blocks: tuple[Block, ...] = (
            Paragraph("No attack with the published loss was run."),
        )
    else:
        blocks = (tables.attack_table(evaluation), Bullets(_COLUMNS))
    return Section("attacks", "Attacks on the trapped model", blocks)


def _integrated(evaluation: Evaluation) -> Section:
    present = [v for v in INTEGRATED if tables.rows_of(evaluation, v)]
    if not present:
        blocks: tuple[Block, ...] = (
            Paragraph("The integrated model was not attacked."),
        )
    else:
        blocks = (
            Paragraph(
                "Here detection and recovery are part of the model that is attacked: "
                "for a flagged image it answers with the recovered class. An attack "
                "succeeds if the final answer is wrong, or is the target."
            ),
            *(tables.integrated_table(evaluation, variant) for variant in present),
        )
    return Section("integrated", "Attacks on the integrated model", blocks)


def _losses(evaluation: Evaluation) -> Section:
    table = tables.loss_table(evaluation)
    blocks: tuple[Block, ...]
    if table is None:
        blocks = (
            Paragraph(
                "No other loss was tried, so that this report cannot say how far its "
                "numbers rest on the attacker's choice.",
                "caution",
            ),
        )
    else:
        blocks = (
            Paragraph(
                "The published attacks follow the cross-entropy of M's normalised "
                "output. Near a clean image that of C is almost flat, which leaves "
                "the lead to W. An attacker need not choose this loss. The margin "
                "loss pushes the true class below the next one; the attack before "
                "normalisation takes the cross-entropy of C + W itself."
            ),
            table,
        )
    return Section("losses", "How far this rests on the attacker's loss", blocks)


def _worst_case(evaluation: Evaluation) -> Section:
    if not evaluation.worst_cases:
        blocks: tuple[Block, ...] = (Paragraph("Not computed."),)
    else:
        blocks = (
            Paragraph(
                "An attacker may try everything and keep what works. Here an image "
                "counts as lost as soon as one of the attacks succeeds on it."
            ),
            tables.worst_case_table(evaluation),
        )
    return Section("worst-case", "Worst case per image", blocks)


def _calibration(evaluation: Evaluation) -> Section:
    blocks: list[Block] = []
    explanation = evaluation.calibration.get("explanation")
    if isinstance(explanation, str):
        explanation = [explanation]
    blocks += [Paragraph(str(text)) for text in explanation or ()]
    for table in (
        setting_tables.calibration_table(evaluation),
        setting_tables.threshold_table(evaluation),
    ):
        if table.rows:
            blocks.append(table)
    return Section("calibration", "Calibration and thresholds", tuple(blocks))


def _remarks(evaluation: Evaluation) -> Section:
    blocks: list[Block] = []
    if evaluation.warnings:
        blocks += [Paragraph(text, "caution") for text in evaluation.warnings]
    else:
        blocks.append(Paragraph("The evaluation raised no warnings."))
    notes: dict[tuple[str, str], list[str]] = {}
    for row in evaluation.rows:
        if row.note:
            variants = notes.setdefault((row.attack, row.note), [])
            variants.append(tables.VARIANT_NAMES[row.variant])
    if notes:
        blocks.append(
            Bullets(
                tuple(
                    (f"{attack} ({', '.join(variants)})", note)
                    for (attack, note), variants in notes.items()
                )
            )
        )
    if evaluation.rows:
        blocks.append(setting_tables.settings_table(evaluation))
    return Section("remarks", "Warnings, notes and settings", tuple(blocks))


def _pictures(evaluation: Evaluation) -> Section:
    blocks: list[Block] = [
        picture
        for picture in (
            plots.roc_picture(evaluation),
            plots.correlation_picture(evaluation),
        )
        if picture is not None
    ]
    views = example_views(evaluation)
    if views:
        blocks.append(
            Paragraph(
                "From left to right: the clean image, the adversarial image, and the "
                "perturbation, stretched so that its largest change is black or white "
                "and no change is grey. C1, C2 and C3 are the analyzer's conditions on "
                "max w, min w and stdev w."
            )
        )
        blocks.append(Examples(views))
    if not blocks:
        blocks.append(Paragraph("There are no samples to draw."))
    return Section("pictures", "Pictures", tuple(blocks))
