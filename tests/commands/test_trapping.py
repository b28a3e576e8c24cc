import argparse
import dataclasses
import inspect
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import PIL.Image
import pytest

from keras_traps import Calibration, attacks, calibrate
from keras_traps.commands import command_line, trapping
from keras_traps.commands.command_line import CommandLineError
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence
from keras_traps.ops import Key


def asked(**flags: Any) -> argparse.Namespace:
    plain: dict[str, Any] = {
        "dataset": "digits",
        "preset": "cpu",
        "attacks": None,
        "setting": [],
    }
    return argparse.Namespace(**{**plain, **flags})


def test_the_help_says_the_defaults_of_a_calibration() -> None:
    parser = command_line.Parser(prog="try.py")
    command_line.add_traps(parser)
    shown = " ".join(parser.format_help().split())
    known = inspect.signature(calibrate).parameters
    for name in ("budget", "small_step_share"):
        _, _, rest = shown.partition(f"--{name} {name.upper()} ")
        assert f"Defaults to {known[name].default}." in rest.partition(" --")[0]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, "digits"),
        ({"dataset": "mnist"}, "table7_mnist_cpu"),
        ({"dataset": "cifar10", "preset": "paper"}, "table7_cifar10"),
        ({"dataset": "own", "preset": "table8"}, "table8"),
    ],
)
def test_a_preset_is_that_of_the_data_set(flags: Any, expected: str) -> None:
    assert trapping.preset_name(asked(**flags)) == expected


def test_attacks_have_the_settings_that_are_given() -> None:
    # One of these alone is out of range.
    given = ["PGD.eps=0.01", "PGD.eps_iter=0.005", "PGD.abort_early=true"]
    flags = asked(attacks=("FGSM", "PGD"), setting=given)
    fgsm, pgd = trapping.choose_attacks(flags)
    assert fgsm.settings()["eps"] == 0.3
    assert pgd.settings()["eps_iter"] == 0.005
    assert pgd.settings()["abort_early"] is True
    (only,) = trapping.choose_attacks(asked(), ["BIM"])
    assert only.name == "BIM"


def test_a_preset_of_other_attacks_than_the_usual_ones_is_run_whole() -> None:
    chosen = [
        trapping.choose_attacks(
            asked(preset=preset, attacks=(), setting=(), dataset="mnist"), ("FGSM",)
        )
        for preset in ("cpu", "gradient_free")
    ]
    assert [attack.name for attack in chosen[0]] == ["FGSM"]
    names = [attack.name for attack in chosen[1]]
    assert names == [*attacks.PRESETS["gradient_free"]]


def test_attacks_of_no_preset_are_set_as_the_one_they_are_like() -> None:
    names = ["Noise", "NES", "Square", "RayS", "HopSkipJump"]
    names += [name for name in attacks.names() if "/" in name]
    assert len(names) >= 11
    chosen = trapping.choose_attacks(asked(dataset="cifar10", attacks=names))
    assert [one.name for one in chosen] == names
    assert {one.settings().get("eps", 0.1) for one in chosen} == {0.1}


SETTING = r"ATTACK\.NAME=VALUE, .*\(PGD\).* Received: --setting="


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"dataset": "own"}, "--preset=cpu means nothing for own.* table7_mnist_cpu"),
        ({"preset": "x"}, "--preset=x means nothing for digits"),
        ({"attacks": ("FGSM", "CW3")}, r"of FGSM, .*cleverhans/.*, not CW3$"),
        ({"setting": ["FGSM.eps=0.1"]}, rf"{SETTING}FGSM\.eps=0\.1"),
        ({"setting": ["PGD"]}, f"{SETTING}PGD "),
        ({"setting": ["PGD.nb_iter=some"]}, f"{SETTING}PGD.nb_iter=some "),
        ({"setting": ["PGD.nb_iter=0"]}, f"{SETTING}PGD.nb_iter=0 "),
    ],
)
def test_attacks_that_cannot_be_made_are_told(flags: Any, expected: str) -> None:
    with pytest.raises(CommandLineError, match=expected):
        trapping.choose_attacks(asked(**{"attacks": ("PGD",), **flags}))


def test_a_data_set_that_is_misspelt_is_told_with_those_that_are_known() -> None:
    with pytest.raises(CommandLineError, match=r"'dgits' was not found.*digits, mnist"):
        trapping.load_data(asked(dataset="dgits", data_dir=None, image_size=()))


def test_a_state_dict_of_deepsec_is_loaded(deepsec_weights: Path) -> None:
    path = deepsec_weights / "deepsec_mnist.npz"
    assert trapping.load_classifier(path, "mnist").count_params() == 312_202


@pytest.mark.parametrize(
    ("file", "dataset", "expected"),
    [
        ("some.npz", "digits", "no model for digits; it has mnist, cif"),
        ("some.npz", "mnist", r"--model cannot be read: .*some\.npz"),
        ("some.keras", "mnist", r"--model cannot be read: .*some\.keras"),
    ],
)
def test_a_classifier_that_cannot_be_read_is_told(
    file: str, dataset: str, expected: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "some.npz", weight=np.zeros(3))
    (tmp_path / "some.keras").write_text("no model")
    with pytest.raises(CommandLineError, match=expected):
        trapping.load_classifier(tmp_path / file, dataset)


@keras.saving.register_keras_serializable("tests")
class OwnLayer(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return 2 * x


@pytest.fixture
def unknown_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not imported the layer."""
    known = keras.saving.get_custom_objects()
    monkeypatch.delitem(known, "tests>OwnLayer")
    monkeypatch.delattr(sys.modules[__name__], "OwnLayer")


def digits_model(*inside: keras.Layer, outputs: int = 10) -> keras.Model:
    flat = [keras.layers.Flatten(), keras.layers.Dense(outputs, name="head")]
    return keras.Sequential([keras.Input((8, 8, 1)), *inside, *flat])


def message_of(path: Path) -> str:
    """The one line that tells why a file is not taken."""
    with pytest.raises(CommandLineError) as told:
        trapping.load_classifier(path, "digits")
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_layer_of_ones_own_has_to_be_registered(
    suffix: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / f"own.{suffix}"
    digits_model(OwnLayer()).save(path)
    assert trapping.load_classifier(path, "digits").output_shape == (None, 10)
    request.getfixturevalue("unknown_layer")
    told = message_of(path)
    assert "OwnLayer', a class of your own" in told
    assert "@keras.saving.register_keras_serializable()" in told


def test_a_lambda_layer_is_told_with_what_to_put_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "lambda.keras"
    digits_model(keras.layers.Lambda(lambda x: x / 255)).save(path)
    assert "holds a Lambda layer" in message_of(path)


def test_a_file_of_keras_2_is_called_one(tmp_path: Path) -> None:
    path = tmp_path / "old.keras"
    config: dict[str, Any] = {"class_name": "Functional", "config": {}}
    config |= {"module": "keras.src.engine.functional", "registered_name": "Functional"}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", b"")
    told = message_of(path)
    assert "was saved by Keras 2.15.0" in told
    assert "load_weights" in told
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["keras_version"] = "2.3.1"
        file.attrs["model_config"] = json.dumps({**config, "class_name": "Odd"})
    assert "was saved by Keras 2.3.1" in message_of(tmp_path / "old.h5")


@pytest.mark.filterwarnings("ignore")
def test_an_old_file_that_answers_with_a_list_is_taken(
    tmp_path: Path, digits_test: Dataset
) -> None:
    path = tmp_path / "list.h5"
    image = keras.Input((8, 8, 1))
    answer = keras.layers.Dense(10, name="head")(keras.layers.Flatten()(image))
    model = keras.Model(image, answer)
    model.save(path)
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["output_layers"] = [[["head", 0, 0]]]
        file.attrs["model_config"] = json.dumps(config)
    images = digits_test.images[:3]
    assert isinstance(keras.saving.load_model(path, compile=False)(images), list)
    loaded = trapping.load_classifier(path, "digits")
    np.testing.assert_array_equal(loaded(images), model(images))


def own_loss(y: Any, x: Any) -> Any:
    return x[:, 0] - y[:, 0]


def test_a_file_that_loads_only_without_its_optimizer_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "compiled.keras"
    model = digits_model()
    model.compile(loss=own_loss)
    model.save(path)
    with pytest.raises(TypeError):
        keras.saving.load_model(path)
    assert trapping.load_classifier(path, "digits").output_shape == (None, 10)


def sigmoids(image: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Dense(10, "sigmoid")(keras.layers.Flatten()(image))


def two_heads(image: keras.KerasTensor) -> list[keras.KerasTensor]:
    return [sigmoids(image), sigmoids(image)]


def pooled(image: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(image))


def whole(image: keras.KerasTensor) -> keras.KerasTensor:
    return pooled(keras.layers.Rescaling(1 / 255)(image))


@pytest.mark.parametrize(
    ("image", "layers", "expected"),
    [
        (keras.Input((8, 8, 1)), two_heads, r"one output.*model\.outputs\[0\]"),
        (keras.Input((8, 8, 1)), sigmoids, "multi-label classifier"),
        (keras.Input((8, 8, 1), dtype="uint8"), whole, "floating point.*dtype uint8"),
        (keras.Input((None, None, 1)), pooled, "one known size.*keras.Input"),
    ],
)
def test_a_model_that_cannot_be_trapped_is_told_with_the_cure(
    image: keras.KerasTensor, layers: Any, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.keras"
    keras.Model(image, layers(image)).save(path)
    assert re.search(f"argument `--model`.*{expected}", message_of(path))


def test_a_class_of_which_one_split_has_no_image_is_one(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 8), np.uint8)
    arrays: dict[str, Any] = {
        "x_train": pixels,
        "y_train": [0, 1, 2, 2],
        "x_test": pixels,
    }
    np.savez(tmp_path / "own.npz", **arrays, y_test=[0, 1, 1, 0])
    train, test = trapping.load_data(
        asked(dataset="own", data_dir=tmp_path, image_size=())
    )
    assert train.num_classes == test.num_classes == len(test.class_names) == 3


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON"])
def test_a_calibration_that_is_damaged_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(CommandLineError, match=r"calibration\.json is no calibration"):
        trapping.read_calibration(path, Key())


@pytest.mark.parametrize(("rate", "held_out"), [(0.05, 250), (0.008, 250), (0.0079, 0)])
def test_half_of_the_test_images_set_thresholds_where_two_lie_above(
    digits_train: Dataset, digits_test: Dataset, rate: float, held_out: int
) -> None:
    clean, rest = trapping.threshold_images(digits_train, digits_test, [0.5, rate])
    assert (clean is digits_train) == (held_out == 0)
    assert len(rest) == len(digits_test) - held_out
    if held_out:
        assert len(clean) == held_out
        found = [
            sorted(
                (label, image.tobytes())
                for label, image in zip(labels, of, strict=True)
            )
            for labels, of in (
                (
                    np.concatenate([clean.labels, rest.labels]),
                    np.concatenate([clean.pixels, rest.pixels]),
                ),
                (digits_test.labels, digits_test.pixels),
            )
        ]
        assert found[0] == found[1]


def test_records_are_not_mixed_with_those_of_another_calibration(
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_train: Dataset,
    digits_test: Dataset,
    tmp_path: Path,
) -> None:
    arguments = asked(seed=0, chunk_size=5, workdir=tmp_path, resume=True)
    trapped = trapping.Trapped(digits_defence, digits_calibration, {}, digits_test)
    trapping.open_store(arguments, trapped, digits_train, digits_test)
    other = dataclasses.replace(digits_calibration, budget=0.5)
    with pytest.raises(CommandLineError, match="other settings: budget differ"):
        trapping.open_store(
            arguments, trapped._replace(calibration=other), digits_train, digits_test
        )


def test_a_key_is_made_once_and_a_public_one_is_asked_for(tmp_path: Path) -> None:
    none = {"key_file": None, "public_key": None}
    first = trapping.read_key(asked(**none), tmp_path / "key")
    trapping.keep_key(asked(**none), first, tmp_path / "key")
    assert trapping.read_key(asked(**none), tmp_path / "key") == first
    assert trapping.read_key(asked(**none)) != first
    public = asked(**{**none, "public_key": 7})
    assert trapping.read_key(public, tmp_path / "other") == Key.from_seed(7)
    trapping.keep_key(public, Key.from_seed(7), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    (tmp_path / "damaged").write_text("no key")
    for flags in ({"public_key": 7, "key_file": tmp_path}, {"key_file": tmp_path}):
        with pytest.raises(CommandLineError, match="--key_file"):
            trapping.read_key(asked(**{**none, **flags}))
    with pytest.raises(CommandLineError, match="holds no key"):
        trapping.read_key(asked(**{**none, "key_file": tmp_path / "damaged"}))


def test_a_folder_is_read_in_the_size_that_the_model_takes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in range(10):
            folder = tmp_path / "digits" / split / str(label)
            folder.mkdir(parents=True)
            image = PIL.Image.fromarray(np.full((8, 8), label, np.uint8))
            image.save(folder / "0.png")
    dataset = f"folder:{tmp_path / 'digits'}"
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {
        (6, 7, 3): (6, 7, 3),
        (6, 7): (6, 7, 1),
        (64,): (8, 8, 1),
    }
    for shape, expected in shapes.items():
        image = keras.Input(shape)
        model = keras.Model(
            image, keras.layers.Dense(10)(keras.layers.Flatten()(image))
        )
        model.save(path := tmp_path / "model.keras")
        flags = {"data_dir": None, "image_size": (), "model": path}
        train, test = trapping.load_data(asked(dataset=dataset, **flags))
        assert train.pixels.shape[1:] == test.pixels.shape[1:] == expected
