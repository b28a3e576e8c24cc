from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_traps.luring import LuredClassifier, batch_order
from keras_traps.luring.answers import frozen_answers
from keras_traps.luring.batches import batches
from keras_traps.luring.schedules import Schedule
from keras_traps.luring.training import Backup, save_atomically, train_in_stages
from tests.luring.conftest import SHAPE, tiny_target

SCHEDULE = Schedule(10, 4, (1e-2, 1e-3), (6,))
STAGE = 4


class KilledError(Exception):
    """Ends a training as a signal would."""


def noisy_lure() -> keras.Model:
    """A network with all that holds a state of its own: means and random draws."""
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(3, 3, padding="same"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
        ]
    )


def model_of() -> LuredClassifier:
    keras.utils.set_random_seed(0)
    model = LuredClassifier(tiny_target(), noisy_lure(), output="logits")
    model.compile(SCHEDULE.optimizer())
    return model


def run(model: LuredClassifier, images: np.ndarray, **settings: Any) -> dict[str, Any]:
    told = frozen_answers(model.target, images, output="logits")._asdict()
    order = batch_order(len(images), SCHEDULE.batch_size, SCHEDULE.steps, seed=0)

    def make(first: int, last: int) -> tf.data.Dataset:
        return batches(images, told, order=order[first:last])

    return train_in_stages(
        model, make, steps=SCHEDULE.steps, stage=STAGE, verbose=False, **settings
    )


def weights_of(model: keras.Model) -> list[np.ndarray]:
    variables = [*model.weights, *model.optimizer.variables]
    return [np.array(variable) for variable in variables]


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_one_that_was_killed_ends_with_the_same_weights(
    stages: int, images: np.ndarray, tmp_path: Path
) -> None:
    plain = model_of()
    run(plain, images)
    folder = tmp_path / "backup"
    killed = model_of()

    def kill(done: int) -> None:
        # Before the state is saved: the stage is lost, and made again.
        if done == min(stages * STAGE, SCHEDULE.steps):
            raise KilledError

    with pytest.raises(KilledError):
        run(killed, images, backup=Backup(folder, {}), after_stage=kill)
    restarted = model_of()
    seen: list[int] = []
    backup = Backup(folder, {}, resume=True)
    run(restarted, images, backup=backup, after_stage=seen.append)
    assert seen == [4, 8, 10][stages - 1 :]
    for a, b in zip(weights_of(restarted), weights_of(plain), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_rate_goes_on_where_it_was(images: np.ndarray, tmp_path: Path) -> None:
    model = model_of()
    run(model, images, backup=Backup(tmp_path, {}))
    restarted = model_of()
    assert float(restarted.optimizer.learning_rate) == pytest.approx(1e-2)
    assert Backup(tmp_path, {}, resume=True).restore(restarted) == SCHEDULE.steps
    assert float(restarted.optimizer.learning_rate) == pytest.approx(1e-3)


def test_a_training_that_is_done_trains_no_further(
    images: np.ndarray, tmp_path: Path
) -> None:
    model = model_of()
    run(model, images, backup=Backup(tmp_path, {}))
    before = weights_of(model)
    assert run(model, images, backup=Backup(tmp_path, {}, resume=True)) == {}
    for a, b in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_metrics_are_those_of_the_last_stage(images: np.ndarray) -> None:
    logs = run(model_of(), images)
    assert set(logs) == {"loss", "agreement"}
    assert 0 <= logs["agreement"] <= 1
    # Of the last stage's two steps of four images.
    assert logs["agreement"] * 8 == pytest.approx(round(logs["agreement"] * 8))


def saved(folder: Path, settings: dict[str, Any]) -> Backup:
    """A backup with a state in it."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    backup = Backup(folder, settings)
    backup.save(model)
    return backup


def test_a_folder_in_use_is_refused_without_resume(tmp_path: Path) -> None:
    saved(tmp_path, {"seed": 0})
    with pytest.raises(FileExistsError, match="--resume"):
        Backup(tmp_path, {"seed": 0})


def test_a_folder_without_a_state_takes_other_settings(tmp_path: Path) -> None:
    Backup(tmp_path, {"seed": 0})
    Backup(tmp_path, {"seed": 1})
    backup = saved(tmp_path, {"seed": 2})
    with pytest.raises(ValueError, match="seed differ"):
        Backup(tmp_path, {"seed": 1}, resume=True)
    backup.discard()
    Backup(tmp_path, {"seed": 1})


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    settings = {"seed": 0, "rates": (1e-3, 1e-4), "width": 1.0}
    saved(tmp_path, settings)
    # What JSON makes of a tuple is the same.
    Backup(tmp_path, settings, resume=True)
    changed = {**settings, "seed": 1, "rates": (1e-3, 2e-4)}
    with pytest.raises(ValueError, match="settings: rates, seed differ"):
        Backup(tmp_path, changed, resume=True)
    with pytest.raises(ValueError, match="settings: loss differ"):
        Backup(tmp_path, {**settings, "loss": "margin"}, resume=True)
    with pytest.raises(ValueError, match="settings: width differ"):
        Backup(tmp_path, {"seed": 0, "rates": (1e-3, 1e-4)}, resume=True)


def test_a_backup_is_gone_once_it_is_discarded(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "backup"
    backup = Backup(folder, {})
    backup.path("best.npz").write_bytes(b"x")
    assert (folder / "best.npz").exists()
    backup.discard()
    assert not folder.exists()
    Backup(folder, {"other": True})


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="`backup`"):
        Backup(tmp_path / "file" / "backup", {})


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "state.keras"
    path.write_text("old")

    def fail(unfinished: Path) -> None:
        assert unfinished.suffix == ".keras"
        unfinished.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_atomically(fail, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    save_atomically(lambda unfinished: unfinished.write_text("new"), path)  # type: ignore[arg-type]
    assert path.read_text() == "new"


def test_the_time_of_what_was_kept_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([100.0, 103.0, 103.0, 150.0, 1000.0, 1002.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    killed = Backup(tmp_path, {})
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    killed.save(model)
    # 47 seconds later it is killed, and goes on long after.
    assert killed.seconds == 3.0 + 47.0
    assert Backup(tmp_path, {}, resume=True).seconds == 3.0 + 2.0
