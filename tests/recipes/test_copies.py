import json
import re
from pathlib import Path

import copies
import keras
import numpy as np
import pytest
from PIL import Image

from keras_traps import Key, attacks, datasets
from keras_traps.commands.command_line import CommandLineError


def test_a_copy_is_made_attacked_and_traced(
    digits_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    Key.from_seed(1).save(workdir / "key")
    make = ["make", f"--model={digits_file}", f"--workdir={workdir}", "--save"]
    copies.main([*make, "--name=alice,bob"])
    with pytest.raises(CommandLineError, match="--resume"):
        copies.main([*make, "--name=carol"])
    copies.main([*make, "--name=bob,carol", "--resume"])
    registry = json.loads((workdir / "registry.json").read_text())
    told = [(copy["name"], copy["version"]) for copy in registry["copies"]]
    assert told == [("alice", 1), ("bob", 1), ("bob", 2), ("carol", 1)]
    key = (workdir / "key").read_text().strip()
    assert key not in (workdir / "registry.json").read_text()
    files = sorted(path.name for path in workdir.glob("*.keras"))
    assert [name.split("-")[0] for name in files] == ["alice", "bob", "bob", "carol"]

    fingerprint = registry["copies"][1]["fingerprint"]
    model = keras.models.load_model(workdir / f"bob-{fingerprint}.keras")
    test = datasets.load("digits", "test").take(60)
    attack = attacks.create("BIM", eps=0.3, eps_iter=0.05, nb_iter=15)
    images = attack(model, test.images, test.labels, output="scores").images
    np.savez(tmp_path / "suspects.npz", images=images)
    folder = tmp_path / "suspects"
    folder.mkdir()
    for number, image in enumerate(images):
        grey = np.rint(255 * image[..., 0]).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"{number:02}.png")
    trace = ["trace", f"--registry={workdir / 'registry.json'}", "--innocent=2000"]
    trace += [f"--key_file={workdir / 'key'}", f"--workdir={tmp_path / 'traced'}"]
    for suspects in (tmp_path / "suspects.npz", folder):
        copies.main([*trace, f"--images={suspects}"])
        assert "The likeliest copy: bob, version 1" in capsys.readouterr().out
        found = json.loads((tmp_path / "traced" / "trace.json").read_text())
        assert found["rows"][-1]["named"] == ["bob, version 1"]
        assert np.shape(found["p_values"]) == (60, 4)
    assert (
        "together name bob, version 1"
        in (tmp_path / "traced" / "trace.html").read_text()
    )
    assert found["rows"][3]["image"] == "03.png"
    page = (tmp_path / "traced" / "trace.md").read_text()
    assert re.search(r"\| all together \| bob, version 1 \| 0\.\d+ \| bob", page)


def test_what_cannot_be_traced_is_told(digits_file: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    copies.main(
        [
            *("make", f"--model={digits_file}", f"--workdir={workdir}"),
            *("--name=alice", "--public_key=3"),
        ]
    )
    np.savez(tmp_path / "large.npz", images=np.zeros((2, 9, 8, 1), np.float32))
    np.savez(tmp_path / "other.npz", pixels=np.zeros((2, 8, 8, 1), np.float32))
    (tmp_path / "empty").mkdir()
    trace = ["trace", f"--registry={workdir / 'registry.json'}"]
    trace += [f"--workdir={tmp_path / 'traced'}"]
    for name, key, told in (
        ("large.npz", "--public_key=3", "images of shape"),
        ("large.npz", "--public_key=4", "fingerprint"),
        ("other.npz", "--public_key=3", "no array `images`"),
        ("empty", "--public_key=3", "no image files"),
        ("empty", f"--key_file={tmp_path / 'key'}", "No such file"),
    ):
        with pytest.raises(CommandLineError, match=told):
            copies.main([*trace, f"--images={tmp_path / name}", key])
    with pytest.raises(CommandLineError, match="--key_file or --public_key"):
        copies.main([*trace, f"--images={tmp_path / 'large.npz'}"])


def test_copies_are_attacked_alone_and_together(
    digits_file: Path, tmp_path: Path
) -> None:
    arguments = [
        *("evaluate", f"--model={digits_file}", f"--workdir={tmp_path / 'run'}"),
        *("--public_key=1", "--attacks=BIM,PGD,Square", "--num_examples=20"),
        *("--num_examples_costly=3", "--num_copies=2", "--innocent=500"),
    ]
    copies.main(arguments)
    path = tmp_path / "run" / "copies.json"
    text = path.read_text()
    rows = json.loads(text)["rows"]
    by_kind = {(row["made on"], row.get("attack")): row for row in rows}
    assert len(by_kind) == len(rows) == 19
    # Of 64 pixels, one image says little.
    own = by_kind["a copy", "BIM"]
    assert own["of_ten"]["likeliest"]["count"] == 2
    assert own["of_ten"]["likeliest"]["total"] == 2
    assert own["alone"]["named"]["total"] == own["fools_own"]["total"] == 20
    assert own["named_of_fooling"]["total"] == own["fools_own"]["count"]
    assert own["unnoticed_own"]["count"] <= own["fools_own"]["count"]
    assert by_kind["a copy", "Square"]["alone"]["named"]["total"] == 3
    assert "named" not in by_kind["the classifier alone", "PGD"]["alone"]
    both = by_kind["2 copies, averaged gradients", "PGD"]["alone"]
    assert both["all_named"]["count"] <= both["named"]["count"]
    copies.main([*arguments, "--resume"])
    assert json.loads(path.read_text())["rows"] == rows
