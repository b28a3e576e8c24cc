from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest

from keras_traps import attacks
from keras_traps._checks import FloatArray
from keras_traps.datasets import Dataset
from keras_traps.detectors import ScoreDetector
from keras_traps.evaluation.detection import Comparison, Watched, compare_detectors
from keras_traps.evaluation.paper import look_up_detector
from keras_traps.evaluation.records import RecordStore, read_runs
from keras_traps.evaluation.report import write_detectors
from keras_traps.models.inference import predict


class Brightness(ScoreDetector):
    """How bright an image is, or how dark."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def score(self, images: npt.ArrayLike) -> FloatArray:
        means = np.asarray(images, np.float32).mean(axis=(1, 2, 3))
        return (self.sign * means).astype(np.float32)


def watched(model: keras.Model, test: Dataset) -> list[Watched]:
    other = keras.models.clone_model(model)
    other.set_weights([0.9 * each for each in model.get_weights()])
    detectors = [Brightness(sign) for sign in (1, -1, 1)]
    for one in detectors:
        for fpr in (0.05, 0.01):
            one.fit_threshold(test.images[300:], fpr)
    bright, dark, own = detectors
    return [
        Watched("bright", "LID", model, bright),
        Watched("dark", "MagNet", model, dark),
        Watched("own", "Trapdoor", other, own),
    ]


def compared(model: keras.Model, test: Dataset, workdir: Path) -> Comparison:
    few = test.take(100)
    return compare_detectors(
        watched(model, test),
        [attacks.create(name, eps=0.3) for name in ("FGSM", "LLC")],
        few,
        workdir=workdir,
        num_examples=30,
        limits={"LLC": 10},
        # The records of an attack are in several files.
        chunk_size=8,
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def found(
    digits_classifier: keras.Model, digits_test: Dataset, workdir: Path
) -> Comparison:
    return compared(digits_classifier, digits_test, workdir)


def test_each_model_is_attacked_once_and_all_its_detectors_look_at_that(
    found: Comparison,
    workdir: Path,
    digits_classifier: keras.Model,
    digits_test: Dataset,
) -> None:
    runs = {(one.subject, one.attack): one for one in read_runs(workdir)}
    assert set(runs) == {(s, a) for s in ("bright", "own") for a in ("FGSM", "LLC")}
    assert [row["attacked"] for row in found.rows] == ["bright", "bright", "own"]
    record = runs["bright", "FGSM"].read(RecordStore.open(workdir))
    images = record["kept"]
    assert len(images) == 30
    wrong = predict(digits_classifier, images).argmax(axis=1) != record["labels"]
    both = watched(digits_classifier, digits_test)[:2]
    for row, one in zip(found.rows[:2], both, strict=True):
        fgsm, least_likely = row["attacks"]
        assert least_likely["success"].total == 10
        assert fgsm["success"].count == wrong.sum() > 0
        for fpr in (0.05, 0.01):
            flagged = one.detector.score(images) > one.detector.threshold(fpr)
            assert fgsm["detected"][fpr].count == (wrong & flagged).sum()
            assert fgsm["detected"][fpr].total == wrong.sum()
            assert fgsm["overall"][fpr].count == (wrong & ~flagged).sum()
            assert fgsm["overall"][fpr].total == 30
            clean = one.detector.score(digits_test.take(100).images)
            alarms = int((clean > one.detector.threshold(fpr)).sum())
            assert row["false_positives"][fpr].count == alarms


def test_a_score_and_its_negative_have_areas_that_add_up_to_one(
    found: Comparison,
) -> None:
    bright, dark, _ = (row["attacks"][0]["auc"] for row in found.rows)
    assert bright + dark == pytest.approx(1)
    assert bright != pytest.approx(0.5, abs=0.05)


def test_other_detectors_look_at_what_is_there_already(
    found: Comparison,
    workdir: Path,
    digits_classifier: keras.Model,
    digits_test: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("keras_traps.evaluation.runner.run_task", never)
    again = compared(digits_classifier, digits_test, workdir)
    assert again.rows == found.rows


def test_the_page_has_a_column_for_each_detector(
    found: Comparison, tmp_path: Path
) -> None:
    paths = write_detectors(found, tmp_path)
    text = paths.markdown.read_text("utf-8")
    assert "| Attack | bright | dark | own |" in text
    assert "bright and dark" in text
    # There is no paper about digits.
    assert "*paper*" not in text


def test_the_papers_numbers_are_those_of_table_iii() -> None:
    assert look_up_detector("LID", "BIM", "mnist")["overall_asr"] == 0.677
    assert look_up_detector("MagNet", "CW2", "cifar10")["tpr"] == 0.384
    assert look_up_detector("Trapdoor", "CW2", "mnist")["tpr"] == 0.972
    traps = look_up_detector("Attractors", "OM", "cifar10")
    assert (traps["tpr"], traps["overall_asr_fpr0.5"]) == (0.819, 0.189)
    assert look_up_detector("TabooTrap", "FGSM", "mnist") == {}
    assert look_up_detector("LID", "FGSM", "digits") == {}
