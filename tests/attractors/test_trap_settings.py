import dataclasses
import json

import numpy as np
import pytest

from keras_traps.attractors import TrapSettings
from tests.attractors.test_injection import SETTINGS


def test_settings_outlive_json() -> None:
    text = json.dumps(SETTINGS.to_dict())
    assert TrapSettings.from_dict(json.loads(text)) == SETTINGS
    numpys = dataclasses.replace(SETTINGS, seed=np.int64(5))  # type: ignore[arg-type]
    assert json.dumps(numpys.to_dict()) == text
    numpys = dataclasses.replace(SETTINGS, temperature=np.float32(0.5))  # type: ignore[arg-type]
    assert json.loads(json.dumps(numpys.to_dict()))["temperature"] == 0.5
    numpys = dataclasses.replace(SETTINGS, border_weight=np.float32(0.5))  # type: ignore[arg-type]
    assert json.loads(json.dumps(numpys.to_dict()))["border_weight"] == 0.5
    with pytest.raises(TypeError, match="a9"):
        TrapSettings.from_dict({**SETTINGS.to_dict(), "a9": 1.0})


@pytest.mark.parametrize("missing", ["output", "a0", "step_weights"])
def test_a_setting_that_is_missing_is_named(missing: str) -> None:
    data = {key: value for key, value in SETTINGS.to_dict().items() if key != missing}
    with pytest.raises(TypeError, match=missing):
        TrapSettings.from_dict(data)


def test_a_setting_with_a_default_may_be_missing() -> None:
    data = {key: value for key, value in SETTINGS.to_dict().items() if key != "steps"}
    assert TrapSettings.from_dict(data).steps == (3.0, 128.0)


def test_settings_of_before_have_no_heavier_border() -> None:
    data = SETTINGS.to_dict()
    del data["border_weight"]
    assert TrapSettings.from_dict(data) == SETTINGS
