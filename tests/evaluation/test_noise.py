import numpy as np
import pytest

from keras_traps.datasets import Dataset
from keras_traps.evaluation.candidates import Candidates, choose_candidates
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.noise import noise_rows
from keras_traps.evaluation.report.markdown import to_markdown
from keras_traps.evaluation.report.noise import build_noise_report
from keras_traps.models.inference import predict


@pytest.fixture(scope="module")
def candidates(digits_defence: Defence, digits_test: Dataset) -> Candidates:
    outputs = predict(digits_defence.classifier, digits_test.images)
    return choose_candidates(outputs, digits_test, num_examples=80, seed=0)


def test_hardly_any_noise_fools_nothing_and_much_fools_many(
    digits_defence: Defence, candidates: Candidates
) -> None:
    rows = noise_rows(digits_defence, candidates, [1e-6, 0.9])
    assert [(row.kind, row.eps) for row in rows] == [
        ("uniform", 1e-6),
        ("sign", 1e-6),
        ("uniform", 0.9),
        ("sign", 0.9),
    ]
    assert all(row.fools_classifier.total == 80 for row in rows)
    for row in rows[:2]:
        assert row.fools_classifier.count == 0
    # At the border of the ball there is more of it.
    assert 0 < rows[2].fools_classifier.count <= rows[3].fools_classifier.count


def test_what_goes_unnoticed_fools_m_and_is_not_flagged(
    digits_defence: Defence, candidates: Candidates
) -> None:
    (row, _) = noise_rows(digits_defence, candidates, [0.5], seed=3)
    noise = np.random.default_rng(3).uniform(-1, 1, candidates.images.shape)
    images = np.clip(candidates.images + 0.5 * noise, 0, 1).astype(np.float32)
    wrong = predict(digits_defence.trapped, images).argmax(axis=1) != candidates.labels
    assert row.fools_trapped.count == wrong.sum()
    for fpr, analyzer in digits_defence.analyzers.items():
        flagged = analyzer.detect(images).is_adversarial
        assert row.unnoticed[fpr].count == (wrong & ~flagged).sum()


def test_the_seed_decides(digits_defence: Defence, candidates: Candidates) -> None:
    first, again, other = (
        noise_rows(digits_defence, candidates, [0.6], seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize("eps", [0.0, -0.1])
def test_a_radius_that_is_not_above_0_is_refused(
    eps: float, digits_defence: Defence, candidates: Candidates
) -> None:
    with pytest.raises(ValueError, match=r"`radii`.*Received: radii="):
        noise_rows(digits_defence, candidates, [0.1, eps])


def test_the_page_has_every_rate(
    digits_defence: Defence, candidates: Candidates
) -> None:
    rows = noise_rows(digits_defence, candidates, [0.5])
    page = to_markdown(build_noise_report(rows, "digits", {"seed": 0}))
    assert "unnoticed, 5 % FPR" in page
    assert "unnoticed, 0.5 % FPR" in page
    assert page.count("| uniform | 0.5 |") == page.count("| sign | 0.5 |") == 1
