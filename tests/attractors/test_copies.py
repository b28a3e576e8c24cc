import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps.attractors import Calibration, Registry, copies, decoder_of
from keras_traps.datasets import Dataset
from keras_traps.ops import Key
from tests.attractors.conftest import least_squares_classifier

MASTER = Key.from_seed(0)


@pytest.fixture
def registry(classifier: keras.Model, calibration: Calibration) -> Registry:
    return Registry.of(classifier, calibration.settings, MASTER, ["alice", "bob"])


def test_every_copy_has_traps_of_its_own_and_the_same_answers(
    classifier: keras.Model, registry: Registry, digits_test: Dataset
) -> None:
    made = dict(copies(classifier, registry, MASTER))
    assert [copy.title for copy in made] == ["alice, version 1", "bob, version 1"]
    decoders = [decoder_of(model) for model in made.values()]
    assert decoders[0].key == MASTER.derive("alice")
    assert decoders[0].fingerprint != decoders[1].fingerprint
    answers = [
        model.predict(digits_test.images).argmax(axis=1) for model in made.values()
    ]
    assert (answers[0] == answers[1]).mean() > 0.99


def test_copies_are_made_when_they_are_asked_for(
    classifier: keras.Model, registry: Registry
) -> None:
    many = registry.hand_out(MASTER, [f"customer {i}" for i in range(1000)])
    copy, _ = next(copies(classifier, many, MASTER))
    assert copy.name == "alice"


def test_a_name_that_comes_again_gets_the_next_version(registry: Registry) -> None:
    rotated = registry.hand_out(MASTER, ["bob", "carol"]).hand_out(MASTER, ["bob"])
    titles = [copy.title for copy in rotated.copies]
    assert titles[2:] == ["bob, version 2", "carol, version 1", "bob, version 3"]
    keys = rotated.keys(MASTER)
    assert len(set(keys)) == 5
    assert [key.fingerprint for key in keys] == [c.fingerprint for c in rotated.copies]


def test_a_registry_comes_back_from_its_file_and_holds_no_key(
    registry: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "registry.json"
    registry.save(path)
    assert Registry.load(path) == registry
    text = path.read_text()
    for key in (MASTER, *registry.keys(MASTER)):
        assert key.fingerprint in text
        assert key._secret.hex() not in text


@pytest.mark.parametrize("part", ["format", "copies", "shape", "settings", "master"])
def test_a_damaged_registry_is_refused(
    registry: Registry, tmp_path: Path, part: str
) -> None:
    path = tmp_path / "registry.json"
    registry.save(path)
    content = json.loads(path.read_text())
    del content[part]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is not a registry"):
        Registry.load(path)


def test_a_registry_with_a_copy_twice_is_refused(
    registry: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "registry.json"
    registry.save(path)
    content = json.loads(path.read_text())
    content["copies"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="none twice"):
        Registry.load(path)


def test_what_does_not_belong_together_is_refused(
    classifier: keras.Model,
    calibration: Calibration,
    registry: Registry,
    digits_train: Dataset,
) -> None:
    other = least_squares_classifier(digits_train, "linear")
    other.set_weights([2 * np.asarray(weight) for weight in other.weights])
    with pytest.raises(ValueError, match="the registry is of"):
        copies(other, registry, MASTER)
    with pytest.raises(ValueError, match="whose fingerprint"):
        registry.keys(Key.from_seed(1))
    for names in ([], ["alice", "alice"], [""]):
        with pytest.raises(ValueError, match="name"):
            registry.hand_out(MASTER, names)
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Registry.of(classifier, calibration.settings, Key(b"x" * 16), ["alice"])
