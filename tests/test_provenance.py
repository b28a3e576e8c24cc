import json
import re
from pathlib import Path

import pytest

from keras_traps.provenance import provenance


def command(*flags: str) -> str:
    return str(
        provenance(["/home/me/project/recipes/attractors.py", *flags])["command"]
    )


def test_only_the_last_part_of_an_absolute_path_is_kept() -> None:
    line = command(
        "--dataset=mnist",
        "--data_dir=/home/me/data",
        "--model",
        "/home/me/models/classifier.keras",
        "-workdir=/tmp/run 1/",
        "--resume",
    )
    assert line == (
        "python recipes/attractors.py --dataset=mnist --data_dir=data "
        "--model classifier.keras '-workdir=run 1' --resume"
    )


def test_no_path_of_this_machine_is_left() -> None:
    found = provenance(
        [
            __file__,
            f"--data_dir={Path.home()}/data",
            "--model",
            f"{Path.cwd()}/m.keras",
        ],
        seed=1,
    )
    text = json.dumps(found)
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    assert not re.search(r"(?<![\w.])/\w", text)


def test_facts_are_shown_after_the_command_and_in_their_order() -> None:
    found = provenance(["a.py"], seed=3, device="CPU", model="abc")
    assert list(found) == [
        "command",
        "seed",
        "device",
        "model",
        "date",
        "versions",
        "machine",
    ]
    assert (found["seed"], found["device"], found["model"]) == (3, "CPU", "abc")


def test_how_products_are_rounded_is_told_where_it_is_not_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TF_SET_ONEDNN_FPMATH_MODE", "BF16")
    found = provenance(["a.py"], seed=1)
    assert found["environment"] == {"TF_SET_ONEDNN_FPMATH_MODE": "BF16"}
    monkeypatch.delenv("TF_SET_ONEDNN_FPMATH_MODE")
    assert "environment" not in provenance(["a.py"])
