import json
from pathlib import Path

import keras
import pytest
from absl import app, flags

from recipes import noise


def run(*arguments: str) -> None:
    values = noise.define_flags(flags.FlagValues())
    noise.main(values(["noise", *arguments]), values)


def test_numbers_and_a_page_are_written(
    digits_classifier: keras.Model, tmp_path: Path
) -> None:
    model = tmp_path / "digits.keras"
    digits_classifier.save(model)
    workdir = tmp_path / "noise"
    run(f"--model={model}", f"--workdir={workdir}", "--num_examples=20", "--radius=0.4")
    content = json.loads((workdir / "noise.json").read_text("utf-8"))
    assert [row["kind"] for row in content["rows"]] == ["uniform", "sign"]
    for row in content["rows"]:
        assert row["fools_classifier"]["total"] == 20
        assert set(row["unnoticed"]) == {"0.05", "0.005"}
    assert content["provenance"]["seed"] == 0
    page = (workdir / "noise.md").read_text("utf-8")
    assert "# Random noise on digits" in page
    assert str(tmp_path) not in page


def test_the_constants_of_another_run_are_not_replaced(
    digits_classifier: keras.Model, tmp_path: Path
) -> None:
    model = tmp_path / "digits.keras"
    digits_classifier.save(model)
    workdir = tmp_path / "noise"
    arguments = (f"--model={model}", f"--workdir={workdir}", "--num_examples=3")
    run(*arguments)
    before = {path.name: path.read_bytes() for path in workdir.iterdir()}
    assert "calibration.json" in before
    for flags_given in (("--seed=1",), ("--seed=1", "--resume"), ("--budget=0.01",)):
        with pytest.raises(ValueError, match=r"calibration\.json was made otherwise"):
            run(*arguments, *flags_given)
    assert {path.name: path.read_bytes() for path in workdir.iterdir()} == before
    # The same once more is no other.
    run(*arguments)
    assert (workdir / "calibration.json").read_bytes() == before["calibration.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=w"], "--model and --workdir are required"),
        (["--model=m", "--workdir=w", "fast"], "Received: fast"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(app.UsageError, match=message):
        run(*arguments)
