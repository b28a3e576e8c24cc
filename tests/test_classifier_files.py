from pathlib import Path

import pytest
from absl import app

from keras_traps._classifier_files import load_classifier


def test_a_state_dict_of_deepsec_is_loaded(deepsec_weights: Path) -> None:
    path = deepsec_weights / "deepsec_mnist.npz"
    assert load_classifier("mnist", path).count_params() == 312_202


def test_errors_name_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "none.keras"
    with pytest.raises(app.UsageError, match="--model names no file"):
        load_classifier("mnist", path)
    with pytest.raises(app.UsageError, match="--other names no file"):
        load_classifier("mnist", path, flag="--other")
    path.write_text("no model")
    with pytest.raises(app.UsageError, match="--other cannot be read"):
        load_classifier("mnist", path, flag="--other")
