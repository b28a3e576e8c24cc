"""Every public name is documented, argument by argument."""

import ast
import dataclasses
import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import pytest

import keras_traps
import keras_traps.ops
from keras_traps import (
    attacks,
    attractors,
    datasets,
    detectors,
    image_sources,
    layers,
    luring,
    models,
    serving,
)
from keras_traps.evaluation.subjects import Defence

MODULES = [keras_traps, layers, keras_traps.ops, attractors, attacks, luring, models]
MODULES += [datasets, detectors, image_sources, serving]
_HEADING = re.compile(r"(?m)^(Args|Call arguments|Returns|Raises|Example|Reference):")


def public_names(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
        and (inspect.isclass(value) or inspect.isfunction(value))
    ]


def exported(kind: Callable[[Any], bool]) -> list[Any]:
    found = {
        f"{module.__name__}.{name}": value
        for module in MODULES
        for name in public_names(module)
        if kind(value := getattr(module, name))
    }
    return [pytest.param(value, id=name) for name, value in found.items()]


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods that the class brings itself, not those that Keras asks for."""
    for name, value in vars(cls).items():
        known = any(hasattr(base, name) for base in cls.__mro__[1:])
        if not name.startswith("_") and not known:
            yield name, value


def sections(documented: Any) -> dict[str, str]:
    parts = _HEADING.split(inspect.getdoc(documented) or "")
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def documented_names(documented: Any, heading: str) -> set[str]:
    text = textwrap.dedent(sections(documented).get(heading, "").lstrip("\n"))
    return set(re.findall(r"(?m)^(\*{0,2}[\w.]+):", text))


def parameters(function: Any) -> set[str]:
    stars: dict[Any, str] = {
        inspect.Parameter.VAR_KEYWORD: "**",
        inspect.Parameter.VAR_POSITIONAL: "*",
    }
    return {
        stars.get(parameter.kind, "") + name
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "cls")
    }


def raised(function: Any) -> set[str]:
    """Names of the errors for its caller that a function raises itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func))
    return found & {"ValueError", "TypeError", "RuntimeError"}


FUNCTIONS = exported(inspect.isfunction)
CLASSES = exported(inspect.isclass)


def documented_calls() -> Iterator[Any]:
    """Each function, constructor and method, with where its arguments are told."""
    for entry in FUNCTIONS:
        yield pytest.param(entry.values[0], entry.values[0], id=entry.id)
    for entry in CLASSES:
        cls = entry.values[0]
        # A dataclass has an `__init__` that nobody wrote, and so no source of it.
        name = "__post_init__" if dataclasses.is_dataclass(cls) else "__init__"
        # Nor did anyone write that of a protocol.
        made = not getattr(cls, "_is_protocol", False)
        if made and inspect.isfunction(maker := vars(cls).get(name)):
            yield pytest.param(maker, cls, id=entry.id)
        for name, value in methods(cls):
            if isinstance(value, classmethod | staticmethod):
                value = value.__func__
            elif isinstance(value, property):
                value = value.fget
            elif hasattr(value, "func"):  # a cached property
                value = value.func
            if inspect.isfunction(value):
                yield pytest.param(value, value, id=f"{entry.id}.{name}")


@pytest.mark.parametrize(("call", "documented"), [*documented_calls()])
def test_each_argument_and_each_error_is_documented(call: Any, documented: Any) -> None:
    assert sections(documented)[""].strip()
    called = documented if dataclasses.is_dataclass(documented) else call
    assert documented_names(documented, "Args") == parameters(called)
    assert raised(call) <= documented_names(documented, "Raises")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_documents_what_it_returns(function: Any) -> None:
    assert sections(function).get("Returns", "").strip()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_says_what_it_is_and_a_record_what_is_in_it(cls: type) -> None:
    assert sections(cls)[""].strip()
    if dataclasses.is_dataclass(cls) or issubclass(cls, tuple):
        assert documented_names(cls, "Args") == parameters(cls)


@pytest.mark.parametrize(
    "cls",
    [entry for entry in CLASSES if issubclass(entry.values[0], keras.layers.Layer)],
)
def test_a_layer_documents_its_call(cls: type) -> None:
    assert {"Call arguments", "Returns", "Reference"} <= sections(cls).keys()


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: text for name, text in os.environ.items() if "KERAS" not in name}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**known, **environment},
        capture_output=True,
        text=True,
    )


def test_importing_it_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys, time\n"
        "before = time.process_time()\n"
        "import keras_traps\n"
        "assert time.process_time() - before < 0.2\n"
        "assert not {'keras', 'numpy', 'tensorflow'} & {*sys.modules}\n"
        "assert {*keras_traps.__all__} <= {*dir(keras_traps)}\n"
    )
    assert run(code).stderr == ""


@pytest.mark.parametrize("backend", ["jax", "openvino", "torch"])
def test_another_backend_is_refused_in_one_sentence(
    backend: str, tmp_path: Path
) -> None:
    told = f"ImportError: keras_traps needs Keras on TensorFlow: .* (it is '{backend}')"
    (tmp_path / "keras.json").write_text(f'{{"backend": "{backend}"}}')
    stand_in = (
        "import sys, types\n"
        "keras = sys.modules['keras'] = types.ModuleType('keras')\n"
        f"keras.config = types.SimpleNamespace(backend=lambda: '{backend}')\n"
    )
    for done in (
        run("import keras_traps", KERAS_BACKEND=backend),
        run("import keras_traps", KERAS_HOME=str(tmp_path)),
        run(f"{stand_in}import keras_traps"),
    ):
        last = done.stderr.splitlines()[-1]
        assert re.fullmatch(re.escape(told).replace(r"\.\*", ".*"), last)


def test_a_damaged_keras_json_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text("{")
    assert run("import keras_traps", KERAS_HOME=str(tmp_path)).stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import keras, keras_traps",
        "import keras_traps, keras",
        "from keras_traps import datasets; import keras",
        "import keras_traps.attacks, keras",
    ],
)
def test_keras_reads_models_of_ours_in_whatever_order_they_are_imported(
    imports: str, digits_defence: Defence, tmp_path: Path
) -> None:
    path = tmp_path / "trapped.keras"
    digits_defence.trapped.save(path)
    names = {name for name in keras.saving.get_custom_objects() if "traps>" in name}
    assert "keras_traps>LuredClassifier" in names
    done = run(
        f"{imports}; keras.saving.load_model({str(path)!r}, compile=False)\n"
        f"assert {names} <= {{*keras.saving.get_custom_objects()}}"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_parts_and_packages_are_imported_when_they_are_asked_for() -> None:
    code = (
        "import sys, keras_traps, keras_traps.datasets\n"
        "late = ('keras_traps.attacks', 'keras_traps.serving', 'tensorflow_datasets')\n"
        "assert not any(name in sys.modules for name in late)\n"
        "assert 'serving' in dir(keras_traps)\n"
        "keras_traps.serving.export, keras_traps.luring.LuredClassifier\n"
        "assert keras_traps.attacks.names()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
