import json
import types
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from absl import app, flags

from benchmarks import attacks, libraries
from benchmarks.libraries import LIBRARIES, Victim
from keras_traps.attacks import create
from keras_traps.models import digits_cnn
from tests.attacks.victims import SHAPE, two_classes

CLEAN = np.full((4, *SHAPE), 0.5, np.float32)


def test_a_fooled_image_counts_inside_the_ball_and_a_nan_never() -> None:
    model = two_classes()
    answer = int(model(CLEAN).numpy()[0].argmax())
    images = CLEAN + np.float32(0.05)
    images[1] += 0.2
    images[2] = np.nan
    images[3] = 0.0
    wrong = np.full(4, 1 - answer)
    victim = Victim(model, CLEAN, wrong, np.full(4, answer), CLEAN)
    found = attacks.succeeded(victim, create("FGSM", eps=0.1), images)
    assert found.tolist() == [True, False, False, False]


def test_a_library_that_is_not_installed_has_no_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> types.ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(libraries, "import_quietly", missing)
    assert LIBRARIES["Foolbox"].version() is None


def test_a_model_is_asked_for_where_none_can_be_trained() -> None:
    values = attacks.define_flags(flags.FlagValues())
    values(["benchmark", "--dataset=mnist"])
    with pytest.raises(app.UsageError, match="--model is required for mnist"):
        attacks.main(["benchmark"], values)


@pytest.mark.slow
def test_cleverhans_and_ours_are_timed_and_judged_alike(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    digits_cnn().save(tmp_path / "digits.keras")
    values = attacks.define_flags(flags.FlagValues())
    output = tmp_path / "benchmark"
    given = ["--attack=FGSM", "--num_examples=4", "--repeats=1", "--nomemory"]
    model = f"--model={tmp_path / 'digits.keras'}"
    words = ["benchmark", model, f"--output={output}", *given]
    attacks.main(values(words), values)
    content: dict[str, Any] = json.loads(output.with_suffix(".json").read_text("utf-8"))
    ours, theirs = content["rows"][:2]
    assert (ours["library"], theirs["library"]) == ("keras_traps", "cleverhans")
    assert ours["success"] == theirs["success"]
    assert ours["l2"] == pytest.approx(theirs["l2"], rel=1e-5)
    assert theirs["ratio"] > 0
