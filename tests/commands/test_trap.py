import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps import Calibration, ForensicAnalyzer, Key
from keras_traps.commands.command_line import CommandLineError
from keras_traps.commands.main import dispatch
from keras_traps.datasets import Dataset
from keras_traps.layers import QIMDecoder


def test_three_files_are_written_and_fit_each_other(
    own_file: Path,
    digits_folder: str,
    digits_test: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "new" / "trapped.keras"
    asked = ["trap", str(own_file), digits_folder, f"--output={output}"]
    dispatch([*asked, "--bounds=0,255", "--fpr=0.1"])
    shown = capsys.readouterr().out
    assert "the trapped model on 9" in shown
    trapped = keras.saving.load_model(output)
    analyzer = ForensicAnalyzer.load(output.with_name("analyzer.json"), trapped)
    assert analyzer.bounds == (0.0, 255.0)
    assert analyzer.thresholds.fpr == 0.1
    flagged = analyzer.detect(digits_test.pixels).is_adversarial
    assert 0.02 < flagged.mean() < 0.2
    text = output.with_name("calibration.json").read_text()
    calibration = Calibration.from_dict(json.loads(text))
    assert calibration.settings.bounds == (0.0, 255.0)
    assert calibration.accuracy is not None
    with pytest.raises(
        CommandLineError, match=r"trapped\.keras, .* exist: .*--overwrite"
    ):
        dispatch(asked)
    kept = f"--key_file={tmp_path / 'key'}"
    dispatch([*asked, "--bounds=0,255", "--overwrite", kept])
    again = keras.saving.load_model(output)
    key = Key.load(tmp_path / "key")
    made = QIMDecoder(10, key=key, messages=calibration.settings.messages)
    made.build((None, 8, 8, 1))
    np.testing.assert_array_equal(
        made.message_bits, again.get_layer("qim_decoder").message_bits
    )
    assert not np.array_equal(
        *(one.get_layer("qim_decoder").message_bits for one in (trapped, again))
    )


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--output=trapped.h5"], r"has to end in \.keras"),
        (["--output={}/m.keras", "--bounds=0"], "--bounds: expected the least"),
        (["--output={}/m.keras"], r"with bounds=\(0, 255\)"),
        (
            ["--output={}/m.keras", "--bounds=0,255", "--num_images=30"],
            "budget=0.033334 ",
        ),
    ],
)
def test_a_wrong_command_line_is_told_and_nothing_is_written(
    flags: list[str], told: str, own_file: Path, digits_folder: str, tmp_path: Path
) -> None:
    given = [flag.format(tmp_path) for flag in flags]
    with pytest.raises(CommandLineError, match=told):
        dispatch(["trap", str(own_file), digits_folder, *given])
    assert not [*tmp_path.iterdir()]
