import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps import ForensicAnalyzer, inject, serving
from keras_traps.models import digits_cnn
from keras_traps.serving import selftest
from tests.serving.conftest import SETTINGS, Trapped, load, operations


def quick(model: keras.Model, directory: Path, **arguments: Any) -> serving.Exported:
    arguments.setdefault("warmup_batch_sizes", ())
    return serving.export(model, directory, verbose=False, **arguments)


def test_the_self_test_reports_every_signature(exported: serving.Exported) -> None:
    found = exported.self_test
    assert set(found.live) == set(found.alone) == set(exported.signatures)
    assert max(*found.live.values(), *found.alone.values()) <= 1
    assert found.num_images == 12


def test_the_self_test_refuses_a_model_that_answers_otherwise(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*arguments: Any) -> Any:
        answers = live_answers(*arguments)
        answers["probabilities"] = answers["probabilities"] + np.float32(1e-5)
        return answers

    live_answers = selftest.live_answers
    monkeypatch.setattr(selftest, "live_answers", other)
    with pytest.raises(serving.SelfTestError, match="as the live model"):
        quick(trapped.model, tmp_path / "new" / "model")
    assert not (tmp_path / "new" / "model").exists()


def test_the_reload_fails_where_this_package_would_be_imported(tmp_path: Path) -> None:
    script = Path(selftest.__file__).with_name("_reload.py")
    assert "import keras_traps" not in script.read_text()
    program = (
        "import runpy, sys\n"
        f"try: runpy.run_path({str(script)!r}, run_name='loaded')\n"
        "finally:\n"
        "  for name in ('keras_traps', 'keras'):\n"
        "    try: __import__(name)\n"
        "    except ImportError: print(name, 'cannot be imported')\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == [
        "keras_traps cannot be imported",
        "keras cannot be imported",
    ]


def test_a_full_disk_leaves_no_half_version(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "model" / "1").mkdir(parents=True)
    for where in ("write_warmup", "write_metadata", "self_test"):
        with monkeypatch.context() as patch:
            patch.setattr(f"keras_traps.serving.exporter.{where}", fail)
            with pytest.raises(OSError, match="No space left"):
                quick(trapped.model, tmp_path / "model", warmup_batch_sizes=(1,))
        assert [path.name for path in (tmp_path / "model").iterdir()] == ["1"]

    def half(holder: Any, directory: str, **_: Any) -> None:
        Path(directory, "saved_model.pb").write_bytes(b"half")
        fail()

    monkeypatch.setattr(tf.saved_model, "save", half)
    with pytest.raises(OSError, match="No space left"):
        quick(trapped.model, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.usefixtures("no_self_test")
def test_what_is_not_asked_for_is_not_in_the_graph(
    trapped: Trapped, tmp_path: Path
) -> None:
    quick(
        trapped.model,
        tmp_path / "model",
        analyzer=trapped.analyzer,
        signatures=("serving_default",),
    )
    path = tmp_path / "model" / "1"
    signatures = load(path)
    assert set(signatures) == {"serving_default"}
    answer = signatures["serving_default"](image=trapped.images[:2])
    assert set(answer) == {"probabilities", "class_id", "label"}
    content = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    for number in _thresholds(trapped.analyzer):
        assert np.float64(number).tobytes() not in content
        assert np.float32(number).tobytes() not in content
    # The recovered class is the one of lowest correlation.
    assert "ArgMin" not in {node.op for node in operations(path)}
    assert "false_positive_rate" not in _defense(path)


def test_an_analysis_does_hold_its_thresholds(
    exported: serving.Exported, trapped: Trapped
) -> None:
    content = (exported.path / "saved_model.pb").read_bytes()
    limits = [trapped.analyzer.thresholds.upper, -trapped.analyzer.thresholds.lower]
    # So that their absence elsewhere says something.
    assert np.array(limits).tobytes() in content
    assert "ArgMin" in {node.op for node in operations(exported.path)}


def test_metadata_tells_no_secret(exported: serving.Exported, trapped: Trapped) -> None:
    text = (exported.path / "assets.extra" / "defense.json").read_text()
    content = json.loads(text)
    assert content["false_positive_rate"] == 0.05
    assert content["metrics"] == {"accuracy": 0.97}
    assert content["data_sha256"] == "ab" * 32
    assert content["versions"]["keras"] == keras.__version__
    assert content["signatures"] == list(exported.signatures)
    assert content["defence"] == "attractors"
    assert str(SETTINGS.seed) not in text
    assert "seed" not in text
    assert "threshold" not in text
    assert trapped.analyzer.decoder.fingerprint[:8] not in text
    numbers = [float(n) for n in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)]
    assert not set(numbers) & set(_thresholds(trapped.analyzer))


def test_no_seed_and_no_path_is_in_any_file(exported: serving.Exported) -> None:
    for file in exported.path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert str(SETTINGS.seed).encode() not in content, file
            assert SETTINGS.seed.to_bytes(4, "little") not in content, file
            assert str(Path(__file__).parents[2]).encode() not in content, file


@pytest.mark.usefixtures("no_self_test")
def test_versions_count_up(trapped: Trapped, tmp_path: Path) -> None:
    (tmp_path / "model" / "41").mkdir(parents=True)
    assert quick(trapped.model, tmp_path / "model").version == 42
    with pytest.raises(FileExistsError, match="there are 41, 42"):
        quick(trapped.model, tmp_path / "model", version=42)
    assert quick(trapped.model, tmp_path / "model", version=7).path.name == "7"


def test_an_analyzer_of_another_decoder_is_refused(
    trapped: Trapped, tmp_path: Path
) -> None:
    import dataclasses

    other = inject(digits_cnn(), dataclasses.replace(SETTINGS, seed=1))
    foreign = ForensicAnalyzer(other).fit(trapped.images)
    with pytest.raises(ValueError, match="fitted for the decoder of"):
        quick(trapped.model, tmp_path / "model", analyzer=foreign)
    assert not list(tmp_path.iterdir())


def test_an_unfitted_analyzer_is_refused(trapped: Trapped, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="call `fit` first"):
        quick(
            trapped.model,
            tmp_path / "model",
            analyzer=ForensicAnalyzer(trapped.model),
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"version": "2"}, "argument `version`"),
        ({"version": 2.0}, "argument `version`"),
        ({"version": True}, "argument `version`"),
        ({"version": 0}, "argument `version`"),
        ({"version": 2**63}, "argument `version`"),
        ({"class_names": ["a", "b"]}, "one string for each of 10 classes"),
        ({"class_names": "0123456789"}, "argument `class_names`"),
        ({"class_names": ["a"] * 10}, "no two the same"),
        ({"class_names": range(10)}, "argument `class_names`"),
        ({"input_name": "an image"}, "argument `input_name`"),
        ({"signatures": ()}, "argument `signatures`"),
        ({"signatures": "serving_default"}, "argument `signatures`"),
        ({"signatures": ("classify",)}, "argument `signatures`"),
        ({"signatures": ("serving_default",) * 2}, "none twice"),
        ({"signatures": ("analyze",)}, "a fitted `analyzer`"),
        ({"signatures": ("predict_agreed",)}, "a `lure`"),
        ({"deploy": "agreed"}, "argument `deploy`"),
        ({"output": "logits"}, "Expected nothing for a trapped"),
        ({"warmup_batch_sizes": (0,)}, "argument `warmup_batch_sizes`"),
        ({"warmup_batch_sizes": (1.5,)}, "argument `warmup_batch_sizes`"),
        ({"warmup_batch_sizes": range(1, 1002)}, "at most 1000"),
        ({"metrics": {"accuracy": float("nan")}}, "argument `metrics`"),
        ({"data_sha256": "abc"}, "argument `data_sha256`"),
        ({"examples": np.zeros((1, 9, 8, 1))}, "argument `examples`"),
    ],
)
def test_a_wrong_argument_is_told_and_nothing_is_made(
    trapped: Trapped, tmp_path: Path, arguments: dict[str, Any], expected: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=expected):
        quick(trapped.model, tmp_path / "model", **arguments)
    assert not list(tmp_path.iterdir())


def test_an_unbuilt_model_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])
    with pytest.raises(ValueError, match="Expected a built model"):
        quick(model, tmp_path / "model", output="logits")
    with pytest.raises(TypeError, match="Expected a Keras model"):
        quick("model.keras", tmp_path / "model")


def test_a_plain_model_has_to_say_what_it_returns(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="argument `output`"):
        quick(digits_cnn(), tmp_path / "model")
    with pytest.raises(ValueError, match="do not look like probabilities"):
        quick(digits_cnn(), tmp_path / "model", output="probabilities")


def test_a_file_in_the_place_of_the_folder_is_refused(
    trapped: Trapped, tmp_path: Path
) -> None:
    (tmp_path / "model").write_text("precious")
    with pytest.raises(NotADirectoryError):
        quick(trapped.model, tmp_path / "model")
    assert (tmp_path / "model").read_text() == "precious"


def test_a_damaged_version_does_not_pass_the_self_test(
    exported: serving.Exported, tmp_path: Path
) -> None:
    shutil.copytree(exported.path, tmp_path / "1")
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(serving.SelfTestError, match="cannot be loaded"):
        selftest._run(tmp_path / "1", tmp_path)


def _thresholds(analyzer: ForensicAnalyzer) -> list[float]:
    found = analyzer.thresholds
    return [
        found.upper,
        found.lower,
        found.deviation,
        found.score,
        *found.centre,
        *found.scale,
    ]


def _defense(path: Path) -> dict[str, Any]:
    return json.loads((path / "assets.extra" / "defense.json").read_text())
