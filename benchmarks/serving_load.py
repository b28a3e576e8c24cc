"""Times a model server under many clients, over gRPC and REST.

Example:
    python -m benchmarks.serving_load --model_base_path=saved_models/digits_attractors \
        --output=docs/results/benchmark_serving_load
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks import _measure
from keras_traps.serving import Client
from keras_traps.serving.client import ServingError
from tests.serving.server_process import ServerProcess

_COLUMNS = {
    "transport": ("over", "{}"),
    "signature": ("signature", "{}"),
    "batch": ("images a request", "{}"),
    "clients": ("clients", "{}"),
    "requests": ("requests", "{:,}"),
    "failed": ("failed", "{}"),
    "per_second": ("requests/s", "{:.0f}"),
    "images_per_second": ("images/s", "{:.0f}"),
    "p50_ms": ("p50, ms", "{:.1f}"),
    "p99_ms": ("p99, ms", "{:.1f}"),
}

_NOTES = """\
Every client is a thread with a connection of its own that asks again as soon as it has
its answer, without retries; times are from the call of `Client.predict` to its NumPy
outputs. Clients and server share the machine. Unless addresses are given, the server is
the reference server of the tests, a test double in Python: the numbers say what the
client and the signatures cost, not what TensorFlow Serving would."""


def measure(
    address: str,
    model: str,
    *,
    signature: str,
    batch: int,
    clients: int,
    requests: int,
) -> _measure.Row:
    """Puts a server under load, with `requests` of all clients together: a row."""

    def ask(client: Client, count: int) -> list[float]:
        """Returns the seconds of each request, NaN for one that failed."""
        own = []
        for _ in range(count):
            start = time.perf_counter()
            try:
                client.predict(images, signature=signature)
                own.append(time.perf_counter() - start)
            except ServingError:
                own.append(np.nan)
        return own

    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(clients))
        crowd = [
            stack.enter_context(
                Client(address, model, retries=0, timeout=300, max_batch_size=batch)
            )
            for _ in range(clients)
        ]
        crowd[0].wait_until_available()
        (spec,) = crowd[0].signatures().signatures[signature].inputs.values()
        sizes = [1 if size is None else size for size in (spec.shape or ())[1:]]
        images = np.random.default_rng(0).random((batch, *sizes), dtype=np.float32)
        # Connections and the signature are there before the clock starts.
        for count in (4, -(-requests // clients)):
            start = time.perf_counter()
            replies = np.concatenate([*pool.map(ask, crowd, [count] * clients)])
            seconds = time.perf_counter() - start
    times = replies[np.isfinite(replies)]
    row: _measure.Row = {
        "transport": address.partition(":")[0].replace("http", "REST"),
        "signature": signature,
        "batch": batch,
        "clients": clients,
        "requests": len(replies),
        "failed": len(replies) - len(times),
        "per_second": len(times) / seconds,
        "images_per_second": batch * len(times) / seconds,
    }
    if len(times):
        row["p50_ms"], row["p99_ms"] = (1e3 * np.quantile(times, (0.5, 0.99))).tolist()
    return row


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags in `values`, and returns them."""
    for name, about in (
        ("model_base_path", "The folder of versions that the reference server serves."),
        ("model", "The model's name. Defaults to the last part of that folder."),
    ):
        flags.DEFINE_string(name, None, about, flag_values=values)
    for name, default, about in (
        ("addresses", [], "Servers to ask in its place: http://host:8501,grpc://..."),
        ("signatures", ["serving_default", "analyze"], "Which signatures are asked."),
        ("batches", ["1", "32"], "How many images a request has."),
    ):
        flags.DEFINE_list(name, default, about, flag_values=values)
    for name, number, about in (
        ("clients", 16, "How many ask at once."),
        ("requests", 2000, "How many requests are made for a line of the table."),
    ):
        flags.DEFINE_integer(name, number, about, lower_bound=1, flag_values=values)
    _measure.define_flags(values, repeats=1)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`."""
    path = values.model_base_path
    model = values.model or (Path(path).name if path else None)
    if model is None or bool(path) == bool(values.addresses):
        raise app.UsageError(
            "Expected either --model_base_path, or --addresses and --model."
        )

    def measure_all() -> list[_measure.Row]:
        with ExitStack() as stack:
            addresses = values.addresses
            if path:
                server = ServerProcess(Path(path).absolute(), model)
                stack.enter_context(server)
                addresses = [server.grpc_address, server.rest_address]
            return [
                measure(
                    address,
                    model,
                    signature=signature,
                    batch=int(batch),
                    clients=values.clients,
                    requests=values.requests,
                )
                for _ in range(values.repeats)
                for signature in values.signatures
                for batch in values.batches
                for address in addresses
            ]

    _measure.run(
        "benchmarks.serving_load",
        argv,
        values,
        measure_all,
        title=f"{model} served to {values.clients} clients",
        columns=_COLUMNS,
        notes=_NOTES,
    )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
