"""Errors, deadlines, and arrays that fit a signature."""

import pickle
from typing import Any

import numpy as np
import pytest
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from keras_traps.serving.client import (
    ResponseError,
    ServingError,
    Signature,
    TensorSpec,
    UnavailableError,
)
from keras_traps.serving.client.protocol import (
    Deadline,
    error_of,
    join,
    read_signatures,
    to_inputs,
)


def test_errors_pass_between_processes_and_keep_a_code_without_a_class() -> None:
    error = UnavailableError("away", attempts=4)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "UNAVAILABLE: away (4 attempts)"
    assert (copy.code, copy.attempts) == ("UNAVAILABLE", 4)
    assert type(error_of("DATA_LOSS", "torn")) is ServingError
    assert str(error_of("DATA_LOSS", "torn")) == "DATA_LOSS: torn"


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 2_147_484])
def test_a_deadline_that_is_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="`timeout`"):
        Deadline(seconds)
    # The longest is what a socket can wait, in milliseconds of 32 bits.
    assert Deadline(2_147_483).seconds * 1000 < 2**31 <= 2_147_484 * 1000


def test_a_spec_is_told_in_words() -> None:
    assert str(TensorSpec("float32", None)) == "float32 of any shape"
    assert str(TensorSpec("float32", (None,))) == "float32 (batch,)"
    assert str(TensorSpec("float32", (None, 8, None))) == "float32 (batch, 8, ?)"


def test_signatures_are_read_and_a_type_that_no_array_holds_is_refused() -> None:
    def definitions(kind: int) -> dict[str, meta_graph_pb2.SignatureDef]:
        definition = meta_graph_pb2.SignatureDef()
        definition.inputs["x"].dtype = kind
        definition.inputs["x"].tensor_shape.unknown_rank = True
        definition.outputs["y"].dtype = types_pb2.DT_HALF
        for size in (-1, 2):
            definition.outputs["y"].tensor_shape.dim.add(size=size)
        return {"f": definition, "__init": definition}

    assert read_signatures(definitions(types_pb2.DT_STRING)) == {
        "f": Signature(
            {"x": TensorSpec("string", None)}, {"y": TensorSpec("float16", (None, 2))}
        )
    }
    with pytest.raises(ValueError, match="qint8 are not supported"):
        read_signatures(definitions(types_pb2.DT_QINT8))


def signature(*dtypes: str) -> Signature:
    return Signature({f"x{i}": TensorSpec(d, None) for i, d in enumerate(dtypes)}, {})


def test_what_fits_is_cast_to_the_signatures_dtype() -> None:
    fitting: dict[str, Any] = {
        "float32": np.ones(2),
        "uint8": [0, 255],
        "int64": np.ones(2, np.uint8),
        "bool": [True, False],
    }
    for dtype, given in fitting.items():
        (array,) = to_inputs(given, signature(dtype)).values()
        assert array.dtype == dtype
    files: Any = [b"a\x00", "ü"]
    (array,) = to_inputs(files, signature("string")).values()
    assert array.tolist() == [b"a\x00", "ü".encode()]


@pytest.mark.parametrize(
    ("dtype", "given", "error", "expected"),
    [
        ("float32", np.zeros(1, np.uint8), TypeError, "divide integer pixels by 255"),
        ("bool", [0, 1], TypeError, "Expected bool"),
        ("uint8", [256], ValueError, "from 0 to 255. Received values from 256"),
        ("float32", [[1.0], [1.0, 2.0]], ValueError, "inhomogeneous"),
        ("float32", [], ValueError, "at least one image"),
        ("float32", np.float32(0), ValueError, "at least one image"),
        ("string", b"png", TypeError, "list of encoded images"),
        ("string", [1], TypeError, "each bytes. Received: int"),
        ("float32", {"x": [1.0]}, ValueError, r"keys \['x0'\]. Received: \['x'\]"),
    ],
)
def test_what_does_not_fit_is_refused(
    dtype: str, given: Any, error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        to_inputs(given, signature(dtype))


def test_several_inputs_are_named_and_as_many() -> None:
    two = signature("float32", "int32")
    both = to_inputs({"x0": [1.0], "x1": [1]}, two)
    assert {key: str(both[key].dtype) for key in both} == {
        "x0": "float32",
        "x1": "int32",
    }
    with pytest.raises(ValueError, match=r"dictionary with the keys \['x0', 'x1'\]"):
        to_inputs([1.0], two)
    with pytest.raises(ValueError, match="as many in every input"):
        to_inputs({"x0": [1.0], "x1": [1, 2]}, two)


def test_parts_are_joined_in_order_and_text_is_decoded() -> None:
    parts = [np.array(["七".encode()], object), np.array([b"\xff"], object)]
    joined = join([(1, {"a": part, "a_bytes": part}) for part in parts])
    assert joined["a"].tolist() == ["七", "\ufffd"]
    assert joined["a_bytes"].tolist() == ["七".encode(), b"\xff"]
    with pytest.raises(ResponseError, match="one row per example in output 'a'"):
        join([(1, {"a": np.zeros(2)}), (1, {"a": np.zeros(1)})])
