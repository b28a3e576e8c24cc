import json
from pathlib import Path

import pytest
from absl import app, flags

from benchmarks import serving_load


def values(*arguments: str) -> flags.FlagValues:
    parsed = serving_load.define_flags(flags.FlagValues())
    parsed(["serving_load", *arguments])
    return parsed


def test_a_line_per_signature_batch_and_address_is_written(
    addresses: tuple[str, str], tmp_path: Path
) -> None:
    arguments = (
        f"--addresses={','.join(addresses)}",
        "--model=digits",
        "--signatures=serving_default,analyze",
        "--batches=2",
        "--clients=2",
        "--requests=5",
        f"--output={tmp_path / 'load'}",
    )
    serving_load.main(["serving_load"], values(*arguments))
    rows = json.loads((tmp_path / "load.json").read_text())["rows"]
    assert [(row["transport"], row["signature"]) for row in rows] == [
        ("grpc", "serving_default"),
        ("REST", "serving_default"),
        ("grpc", "analyze"),
        ("REST", "analyze"),
    ]
    for row in rows:
        # Three requests for each of two clients.
        assert (row["requests"], row["failed"]) == (6, 0)
        assert row["images_per_second"] == pytest.approx(2 * row["per_second"])
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert "| grpc | serving_default |" in (tmp_path / "load.md").read_text("utf-8")


@pytest.mark.parametrize(
    "arguments",
    [(), ("--addresses=http://a:1", "--model_base_path=saved_models/digits")],
)
def test_a_command_line_that_names_no_server_or_two_is_refused(
    arguments: tuple[str, ...],
) -> None:
    with pytest.raises(app.UsageError, match="either --model_base_path"):
        serving_load.main(["serving_load"], values(*arguments))
