import json
import re
from pathlib import Path

import pytest

from keras_traps.provenance import provenance


def test_only_the_last_part_of_an_absolute_path_is_kept() -> None:
    flags = ["--dataset=mnist", f"--data_dir={Path.home()}/data", "--resume"]
    paths = ["--model", f"{Path.cwd()}/classifier.keras", "-workdir=/tmp/run 1/"]
    found = provenance(["/home/me/recipes/attractors.py", *flags, *paths], seed=1)
    assert found["command"] == (
        "python recipes/attractors.py --dataset=mnist --data_dir=data --resume "
        "--model classifier.keras '-workdir=run 1'"
    )
    of_package = provenance(
        ["/bin/keras-traps", "check", f"folder:{Path.home()}/images"]
    )
    assert of_package["command"] == "keras-traps check folder:images"
    # Nor does anything else tell of this machine's folders.
    assert not re.search(r"(?<![\w.])/\w", json.dumps(found))


def test_how_products_are_rounded_is_told_where_it_is_not_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TF_SET_ONEDNN_FPMATH_MODE", "BF16")
    found = provenance(["a.py"], seed=1)
    assert found["environment"] == {"TF_SET_ONEDNN_FPMATH_MODE": "BF16"}
    monkeypatch.delenv("TF_SET_ONEDNN_FPMATH_MODE")
    assert "environment" not in provenance(["a.py"])
