import dataclasses
import functools
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np

from keras_traps.attacks import create
from keras_traps.attractors import integrate, raw_sum
from keras_traps.datasets import Dataset
from keras_traps.evaluation.candidates import choose_candidates
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.engines import LocalEngine
from keras_traps.evaluation.jobs import Job, Subject
from keras_traps.evaluation.protocol import attack_all
from keras_traps.evaluation.records import RecordStore
from keras_traps.evaluation.results import Variant
from keras_traps.models.inference import predict

SUBJECTS: tuple[Subject, ...] = (
    "undefended",
    *(name for name in get_args(Variant) if name != "paper"),
)


def test_records_are_what_the_attack_makes_of_each_view(
    digits_defence: Defence,
    digits_test: Dataset,
    digits_train: Dataset,
    tmp_path: Path,
) -> None:
    # Another weight than `integrate` has by itself.
    asked = keras.models.clone_model(digits_defence.classifier)
    digits_defence = dataclasses.replace(
        digits_defence, recovery_weight=4.0, recovery_classifier=asked
    )
    outputs = predict(digits_defence.classifier, digits_test.images)
    candidates = choose_candidates(outputs, digits_test, num_examples=7, seed=0)
    attacks = [create("TMIFGSM", eps=0.3, eps_iter=0.1, nb_iter=3)]
    store = RecordStore(tmp_path, {})

    job = Job(digits_defence, candidates, digits_train.images, 3)
    records = attack_all(
        LocalEngine(job),
        attacks,
        store,
        subjects=SUBJECTS,
        chunk_size=4,
    )

    assert list(records) == list(SUBJECTS)
    joined = functools.partial(
        integrate, digits_defence.trapped, digits_defence.main_analyzer
    )
    views: dict[Any, tuple[Any, Any]] = {
        "undefended": (digits_defence.classifier, "cross_entropy"),
        "margin": (digits_defence.trapped, "margin"),
        "raw_sum": (raw_sum(digits_defence.trapped), "cross_entropy"),
        "integrated": (joined(recovery="correlation"), "cross_entropy"),
        "integrated_label": (joined(recovery="label"), "cross_entropy"),
        "integrated_difference": (
            joined(recovery="difference", weight=4.0, recovery_classifier=asked),
            "cross_entropy",
        ),
        "integrated_depth": (
            joined(recovery="depth", recovery_classifier=asked),
            "cross_entropy",
        ),
    }
    for subject, (model, loss) in views.items():
        record = records[subject]["TMIFGSM"]
        result = attacks[0](
            model,
            candidates.images,
            candidates.labels,
            output="logits" if subject == "undefended" else "scores",
            y_target=candidates.random,
            loss=loss,
            seed=3,
            ids=candidates.ids,
            batch_size=4,
        )
        np.testing.assert_array_equal(record.ids, candidates.ids)
        np.testing.assert_array_equal(record.goals, candidates.random)
        answers = predict(model, result.images).argmax(axis=1)
        np.testing.assert_array_equal(record.answers, answers)
        np.testing.assert_array_equal(record.succeeded(targeted=True), result.success)
        np.testing.assert_array_equal(record.linf, result.linf)
        np.testing.assert_array_equal(record.kept[:4], result.images[:4])
        analyzer = digits_defence.main_analyzer
        np.testing.assert_allclose(
            record.correlations, analyzer.correlations(result.images), atol=1e-6
        )
