"""Lured models, from plain Keras models: a network P before a classifier M."""

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps import serving
from keras_traps.models.inference import predict
from keras_traps.serving import Deploy
from tests.serving.conftest import load


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((50, 8, 8, 1), np.float32)


@pytest.mark.parametrize("deploy", ["augmented", "target", "agreed"])
def test_each_deployment_answers_as_the_live_networks(
    target: keras.Model,
    lure: keras.Model,
    images: np.ndarray,
    tmp_path: Path,
    deploy: Deploy,
    request: pytest.FixtureRequest,
) -> None:
    # One of them with the self-test in its fresh process.
    if deploy != "agreed":
        request.getfixturevalue("no_self_test")
    exported = serving.export(
        target,
        tmp_path / "model",
        lure=lure,
        deploy=deploy,
        output="logits",
        signatures=("serving_default", "predict_agreed"),
        verbose=False,
    )
    plain = predict(target, images).argmax(axis=1)
    lured = predict(target, predict(lure, images)).argmax(axis=1)
    agreed = plain == lured
    assert 0 < agreed.mean() < 1
    served = load(exported.path)
    expected = {
        "augmented": lured,
        "target": plain,
        "agreed": np.where(agreed, plain, -1),
    }
    answer = served["serving_default"](image=images)
    assert (answer["class_id"] == expected[deploy]).all()
    assert set(answer) == {"probabilities", "class_id", "label"}

    answer = served["predict_agreed"](image=images)
    assert (answer["agreed"] == agreed).all()
    assert (answer["class_id"] == expected["agreed"]).all()
    assert (answer["probabilities"][~agreed] == 0).all()
    np.testing.assert_allclose(answer["probabilities"][agreed].sum(axis=1), 1, 1e-5)
    assert {*answer["label"][~agreed]} == {b""}
    assert len(served["predict_agreed"](image=images[:0])["agreed"]) == 0


@pytest.mark.usefixtures("no_self_test")
def test_the_target_alone_leaves_the_lure_out(
    target: keras.Model, lure: keras.Model, tmp_path: Path
) -> None:
    sizes = {}
    for deploy in ("target", "agreed"):
        exported = serving.export(
            target,
            tmp_path / deploy,
            lure=lure,
            deploy=deploy,
            output="logits",
            verbose=False,
        )
        index = exported.path / "variables" / "variables.data-00000-of-00001"
        sizes[deploy] = index.stat().st_size
        default = deploy == "agreed"
        assert ("predict_agreed" in exported.signatures) == default
    assert sizes["agreed"] - sizes["target"] >= 4 * lure.count_params()


@pytest.mark.parametrize("deploy", [None, "both"])
def test_the_deployment_has_to_be_named(
    target: keras.Model, lure: keras.Model, tmp_path: Path, deploy: Deploy | None
) -> None:
    with pytest.raises(ValueError, match='"augmented", "target", "agreed"'):
        serving.export(target, tmp_path, lure=lure, deploy=deploy, output="logits")


def test_a_lure_of_other_images_is_refused(target: keras.Model, tmp_path: Path) -> None:
    images = keras.Input((8, 8, 1))
    wide = keras.Model(images, keras.layers.ZeroPadding2D(1)(images))
    with pytest.raises(ValueError, match="argument `lure`"):
        serving.export(target, tmp_path, lure=wide, deploy="agreed", output="logits")
    with pytest.raises(TypeError, match="argument `lure`"):
        serving.export(
            target,
            tmp_path,
            lure="p.keras",
            deploy="agreed",
            output="logits",
        )
