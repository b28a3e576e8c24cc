import dataclasses

from keras_traps.evaluation.report import summary
from keras_traps.evaluation.results import CleanResults, Evaluation, WorstCase
from keras_traps.rates import Rate

from .conftest import MakeEvaluation


def text_of(evaluation: Evaluation) -> str:
    return " ".join(summary.summary_sentences(evaluation))


def test_summary_names_the_strongest_attack_and_its_share(
    evaluation: Evaluation,
) -> None:
    row = evaluation.rows[0]
    strong = dataclasses.replace(row.detection[0], overall=Rate(33, 50))
    row = dataclasses.replace(row, detection=(strong, row.detection[1]))
    changed = dataclasses.replace(evaluation, rows=(row, *evaluation.rows[1:]))

    assert "5 % the strongest attack gets through in 66.0 % (FGSM)" in text_of(changed)


def test_summary_says_that_another_loss_gets_further(evaluation: Evaluation) -> None:
    assert "rises from 12.0 % to 24.0 %" in text_of(evaluation)


def test_summary_does_not_claim_a_rise_where_there_is_none(
    evaluation: Evaluation,
) -> None:
    rows = tuple(
        dataclasses.replace(row, detection=evaluation.rows[0].detection)
        for row in evaluation.rows
        if row.variant != "integrated"
    )
    text = text_of(dataclasses.replace(evaluation, rows=rows))

    assert "rises" not in text
    assert "no more than the 12.0 %" in text


def test_summary_counts_the_worst_case_per_image(evaluation: Evaluation) -> None:
    assert "18.0 % of the images (9 of 50) at 5 %" in text_of(evaluation)


def test_the_worst_case_is_that_over_all_losses_where_there_are_several(
    evaluation: Evaluation,
) -> None:
    rate = Rate(45, 50)
    every = WorstCase("any_loss", rate, dict.fromkeys((0.05, 0.005), rate))
    both = dataclasses.replace(evaluation, worst_cases=(*evaluation.worst_cases, every))
    text = text_of(both)
    assert "with each of the losses" in text
    assert "90.0 % of the images (45 of 50) at 5 %" in text
    values = {tile.label: tile.value for tile in summary.headline_tiles(both)}
    assert values["Worst case per image"] == "90.0 %"


def test_summary_of_a_single_attack_speaks_of_no_median(
    make_evaluation: MakeEvaluation,
) -> None:
    assert "median" not in text_of(make_evaluation(("FGSM",), ("paper",)))


def test_summary_without_any_attack_still_tells_the_price(
    make_evaluation: MakeEvaluation,
) -> None:
    sentences = summary.summary_sentences(make_evaluation((), ()))

    assert len(sentences) == 1
    assert "99.2 % without the traps and 99.0 % with them" in sentences[0]
    assert [t.value for t in summary.headline_tiles(make_evaluation((), ()))] == [
        "99.0 %"
    ]


def test_false_positives_beyond_chance_are_pointed_out(evaluation: Evaluation) -> None:
    sentences = summary.false_positive_sentences(evaluation)

    assert len(sentences) == 1
    assert "5 %" in sentences[0]
    assert "more clean test images than intended (12.0 %)" in sentences[0]


def test_too_few_false_positives_are_pointed_out_too(evaluation: Evaluation) -> None:
    clean: CleanResults = dataclasses.replace(
        evaluation.clean, false_positives={0.05: Rate(1, 1000)}
    )
    sentences = summary.false_positive_sentences(
        dataclasses.replace(evaluation, clean=clean)
    )

    assert "fewer" in sentences[0]
