import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tqdm

from keras_traps.attacks import create
from keras_traps.evaluation.luring import protocol
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.luring.subjects import Subject, past_the_lure, right_on_all
from keras_traps.evaluation.records import ArrayStore
from keras_traps.luring.variants import join
from keras_traps.models.inference import predict
from tests.luring.conftest import tiny_lure

FGSM = create("FGSM", eps=0.2)


def test_the_control_gives_each_image_the_change_of_the_one_beside_it(
    subject: Subject, tmp_path: Path
) -> None:
    count = 8
    few = dataclasses.replace(
        subject,
        threat="exchanged",
        ids=subject.ids[:count],
        images=subject.images[:count],
        labels=subject.labels[:count],
    )
    # Pieces of 3 part some of the pairs.
    store = ArrayStore(LuringRecord, tmp_path, {}, resume=True)
    quiet = protocol.Runner(store, chunk_size=3, seed=0, bar=tqdm.tqdm(disable=True))
    (outcome,) = protocol.attack_subject(
        [few], [FGSM], quiet, count_sweep=count, sweep=False, provenance=dict
    )
    record = outcome.read(store)
    result = FGSM(few.augmented, few.images, few.labels, ids=few.ids)
    change = result.images - few.images
    beside = [1, 0, 3, 2, 5, 4, 7, 6]
    images = np.clip(few.images + change[beside], 0, 1)
    np.testing.assert_array_equal(record.ids, few.ids)
    np.testing.assert_array_equal(record.labels, few.labels)
    for name, model in (("augmented", few.augmented), ("target", few.target)):
        np.testing.assert_array_equal(
            getattr(record, name), predict(model, images).argmax(axis=1)
        )
    moved = np.linalg.norm((images - few.images).reshape(count, -1), axis=1)
    np.testing.assert_allclose(record.l2, moved, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 7])
def test_an_odd_number_of_images_cannot_be_exchanged(
    subject: Subject, count: int
) -> None:
    odd = dataclasses.replace(
        subject,
        threat="exchanged",
        ids=subject.ids[:count],
        images=subject.images[:count],
        labels=subject.labels[:count],
    )
    with pytest.raises(
        ValueError, match=f"an even number of images. Received: {count}"
    ):
        odd.run(FGSM, slice(0, 1), seed=0)


def test_other_weights_have_records_of_their_own(subject: Subject) -> None:
    other = dataclasses.replace(subject, weights={"target": "a", "variant": "c"})
    assert other.folder != subject.folder


def test_candidates_are_the_first_that_all_are_right_on() -> None:
    class Test:
        labels = np.array([0, 1, 0, 1, 1])

    answers = [np.array([0, 1, 1, 1, 1]), np.array([1, 1, 0, 1, 1])]
    few: Any = Test()
    np.testing.assert_array_equal(right_on_all(answers, few, num_examples=2), [1, 3])
    with pytest.raises(ValueError, match="no test image"):
        right_on_all([1 - Test.labels], few, num_examples=2)


def test_pgd_past_the_lure_goes_on_after_m_of_p_is_fooled(subject: Subject) -> None:
    pgd = create("PGD", eps=0.2, eps_iter=0.05, nb_iter=3, abort_early=True)
    attack = past_the_lure(pgd)
    assert attack.settings() == {
        "eps": 0.2,
        "eps_iter": 0.05,
        "nb_iter": 3,
        "through": ("lure",),
        "abort_early": False,
    }
    named = tiny_lure()
    named.name = "lure"
    record = dataclasses.replace(subject, attacked=join(named, subject.target)).run(
        attack, slice(5), seed=0
    )
    np.testing.assert_array_equal(record.iterations, 3)
    with pytest.raises(ValueError, match=r"`attack`.*MIM"):
        past_the_lure(create("MIM", eps=0.2, eps_iter=0.1, nb_iter=2))
