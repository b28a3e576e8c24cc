"""Times the watermark decoder against its formula, and weighs its memory.

Example:
    python -m benchmarks.qim --repeats=5 --output=docs/results/benchmark_qim
    python -m benchmarks.qim --images=32 --side=224 --messages=1000 --noliteral
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf
from absl import app, flags

from benchmarks import _measure
from keras_traps import ops

_READING = "reading the input once"
_COPYING = "writing as much as the input"
_LITERAL = "literal broadcast"

_COLUMNS = {
    "name": ("", "{}"),
    "forward_ms": ("forward, ms", "{:.1f}"),
    "forward_readings": ("in readings", "{:.1f}"),
    "forward_speedup": ("faster than literal", "{:.0f}x"),
    "forward_memory": ("extra memory, inputs", "{:.2f}"),
    "gradient_ms": ("with gradient, ms", "{:.1f}"),
    "gradient_readings": ("in readings", "{:.1f}"),
    "gradient_speedup": ("faster than literal", "{:.0f}x"),
    "gradient_memory": ("extra memory, inputs", "{:.2f}"),
}

_TOLD = {
    "images": "How many images.",
    "side": "Height and width of an image.",
    "channels": "Channels of an image.",
    "messages": "How many messages.",
}

_NOTES = """\
Times are medians over interleaved rounds, and so are the ratios. Reading the input is
`tf.reduce_sum` over it in a `tf.function`; writing as much is the input times 2, which
is what any gradient costs at least: where the C library asks the system for fresh pages
every time, these take most of it; compare with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`.
The literal broadcast is the formula as it stands, one distance with `tf.math.floormod`
per image, message and pixel, then a sum over the pixels, in one `tf.function` and not
in chunks. Extra memory is the growth of the peak resident set of a process of its own
during a second run, in sizes of the input; with the gradient, one of them is the
gradient itself."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is decoded: square images of some channels."""

    images: int = 4096
    side: int = 32
    channels: int = 3
    messages: int = 10

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image."""
        return (self.side, self.side, self.channels)

    @property
    def pixels(self) -> int:
        """How many numbers an image has."""
        return self.side * self.side * self.channels


class Secrets(NamedTuple):
    """What `ops.qim_decode` takes of the messages and steps, and what the formula."""

    tables: ops.QIMTables
    bits: tf.Tensor
    steps: tf.Tensor
    weights: tf.Tensor


Decoder = Callable[..., tf.Tensor]
"""Of images, secrets and the three constants of equation 3."""


def literal_decode(
    x: tf.Tensor, secrets: Secrets, a0: tf.Tensor, a1: tf.Tensor, a2: tf.Tensor
) -> tf.Tensor:
    """Does what `ops.qim_decode` does, as the formula says it."""
    _, bits, steps, weights = secrets
    # Codewords of the bit m are at (m + 0.5) * step and every two steps from there.
    shifted = x[:, None, :] + (0.5 - bits) * steps
    offset = tf.math.floormod(shifted, 2.0 * steps) - steps
    distance = tf.reduce_sum(weights * (tf.abs(offset) - 0.5 * steps), axis=-1)
    return ops.qim_correlation(distance, a0, a1, a2)


def decode(
    x: tf.Tensor, secrets: Secrets, *constants: tf.Tensor, jit_compile: bool = False
) -> tf.Tensor:
    """Calls `ops.qim_decode`."""
    return ops.qim_decode(x, secrets.tables, *constants, jit_compile=jit_compile)


DECODERS: dict[str, Decoder] = {
    "qim_decode, XLA": functools.partial(decode, jit_compile=True),
    "qim_decode": decode,
    _LITERAL: literal_decode,
}


def inputs(size: Size, *, literal: bool = True) -> tuple[tf.Tensor, ...]:
    """Draws the arguments of a decoder: grey levels, messages, steps of 3 and 128.

    Without `literal` the messages are not written out, and only the fused are there.
    """
    x = tf.random.stateless_uniform((size.images, size.pixels), (0, 0), maxval=255.0)
    key = ops.Key.from_seed(0)
    code = ops.draw_code(size.shape, size.messages, key=key)
    steps = tf.gather([3.0, 128.0], ops.draw_steps(size.shape, (3.0, 128.0), key=key))
    weights = 1.0 / steps
    bits = tf.constant(code.bits() if literal else 0, tf.float32)
    secrets = Secrets(ops.qim_tables(code, steps, weights), bits, steps, weights)
    # Correlations are spread as those of a calibrated decoder.
    a0 = tf.constant(-0.3 * size.pixels**-0.5)
    return x, secrets, a0, tf.constant(-0.3), tf.constant(1.0)


def calls(decode: Decoder, arguments: Sequence[tf.Tensor]) -> list[_measure.Call]:
    """Returns two calls of a decoder: forward, and forward with the gradient of x."""

    def with_gradient(x: tf.Tensor, *secrets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            correlations = decode(x, *secrets)
        return correlations, tape.gradient(correlations, x)

    return [
        functools.partial(tf.function(function), *arguments)
        for function in (decode, with_gradient)
    ]


def measure(
    size: Size, *, repeats: int, memory: bool = True, literal: bool = True
) -> list[_measure.Row]:
    """Measures every decoder, and reading and writing the input for comparison."""
    arguments = inputs(size, literal=literal)
    names = [name for name in DECODERS if literal or name != _LITERAL]
    timed: dict[str, _measure.Call] = {
        _READING: functools.partial(tf.function(tf.reduce_sum), arguments[0]),
        _COPYING: functools.partial(tf.function(lambda x: 2.0 * x), arguments[0]),
    }
    for name in names:
        pair = calls(DECODERS[name], arguments)
        timed[f"{name} forward"], timed[f"{name} gradient"] = pair
    times = _measure.time_calls(timed, repeats)
    reading, copying = times[_READING], times[_COPYING]
    rows: list[_measure.Row] = [
        {"name": _READING, "forward_ms": _measure.milliseconds(reading)},
        {
            "name": _COPYING,
            "gradient_ms": _measure.milliseconds(copying),
            "gradient_readings": _measure.median_ratio(copying, reading),
        },
    ]
    for name in names:
        row: _measure.Row = {"name": name}
        extra = memory_of(name, size) if memory else []
        for index, way in enumerate(("forward", "gradient")):
            own = times[f"{name} {way}"]
            row[f"{way}_ms"] = _measure.milliseconds(own)
            row[f"{way}_readings"] = _measure.median_ratio(own, reading)
            if literal:
                as_it_stands = times[f"{_LITERAL} {way}"]
                row[f"{way}_speedup"] = _measure.median_ratio(as_it_stands, own)
            if extra:
                row[f"{way}_memory"] = extra[index]
        rows.append(row)
    return rows


def memory_of(name: str, size: Size) -> list[float]:
    """Returns a decoder's extra memory, forward and with gradient, in input sizes."""
    extra = _measure.extra_memory(functools.partial(_calls_by_name, name, size))
    return [peak / (4 * size.images * size.pixels) for peak in extra]


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags."""
    for field in dataclasses.fields(Size):
        flags.DEFINE_integer(
            field.name,
            getattr(Size, field.name),
            _TOLD[field.name],
            lower_bound=1,
            flag_values=values,
        )
    for name, told in (
        ("memory", "Whether to measure memory, on Linux."),
        ("literal", "Whether to measure the formula as it stands too."),
    ):
        flags.DEFINE_bool(name, True, told, flag_values=values)
    _measure.define_flags(values, repeats=10)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`."""
    size = Size(values.images, values.side, values.channels, values.messages)
    _measure.run(
        "benchmarks.qim",
        argv,
        values,
        lambda: measure(
            size,
            repeats=values.repeats,
            memory=values.memory,
            literal=values.literal,
        ),
        title=(
            f"The QIM decoder on {size.images} images of {size.shape} and "
            f"{size.messages} messages, float32"
        ),
        columns=_COLUMNS,
        notes=_NOTES,
    )


def _calls_by_name(name: str, size: Size) -> list[_measure.Call]:
    return calls(DECODERS[name], inputs(size, literal=name == _LITERAL))


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
