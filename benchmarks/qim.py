"""Times the watermark decoder against its formula, and weighs its memory.

Example:
    python -m benchmarks.qim --repeats=5 --output=docs/results/benchmark_qim
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import tensorflow as tf
from absl import app, flags

from benchmarks import _measure
from keras_traps import ops

Decoder = Callable[..., tf.Tensor]

_READING = "reading the input once"
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

_NOTES = """\
Times are medians over interleaved rounds, and so are the ratios. Reading the input is
`tf.reduce_sum` over it in a `tf.function`. The literal broadcast is the formula as it
stands, one distance with `tf.math.floormod` per image, message and pixel, then a sum
over the pixels, in one `tf.function` and not in chunks. Extra memory is the growth of
the peak resident set of a process of its own during a second run, in sizes of the
input; with the gradient, one of them is the gradient itself. Fresh pages for it take
most of the gradient's time where the C library asks for small ones: compare with
`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is decoded."""

    images: int = 4096
    pixels: int = 3072
    messages: int = 10


def literal_decode(
    x: tf.Tensor,
    signs: tf.Tensor,
    steps: tf.Tensor,
    weights: tf.Tensor,
    a0: tf.Tensor,
    a1: tf.Tensor,
    a2: tf.Tensor,
) -> tf.Tensor:
    """Does what `ops.qim_decode` does, as the formula says it."""
    # Codewords of the bit m are at (m + 0.5) * step and every two steps from there.
    bits = 0.5 - 0.5 * tf.transpose(signs)
    shifted = x[:, None, :] + (0.5 - bits) * steps
    offset = tf.math.floormod(shifted, 2.0 * steps) - steps
    distance = tf.reduce_sum(weights * (tf.abs(offset) - 0.5 * steps), axis=-1)
    return ops.qim_correlation(distance, a0, a1, a2)


DECODERS: dict[str, Decoder] = {
    "qim_decode, XLA": functools.partial(ops.qim_decode, jit_compile=True),
    "qim_decode": ops.qim_decode,
    _LITERAL: literal_decode,
}


def inputs(size: Size) -> tuple[tf.Tensor, ...]:
    """Draws the arguments of a decoder: grey levels, messages, steps of 3 and 128."""
    x = tf.random.stateless_uniform((size.images, size.pixels), (0, 0), maxval=255.0)
    messages = ops.draw_messages((size.pixels,), size.messages, seed=0, kind="random")
    index = ops.draw_steps((size.pixels,), (3.0, 128.0), seed=0)
    steps = tf.gather([3.0, 128.0], index)
    weights = 1.0 / steps
    # Correlations are spread as those of a calibrated decoder.
    a0 = tf.constant(-0.3 * size.pixels**-0.5)
    a1 = tf.constant(-0.3)
    signs = tf.constant(ops.message_signs(messages))
    return x, signs, steps, weights, a0, a1, tf.constant(1.0)


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


def measure(size: Size, *, repeats: int, memory: bool = True) -> list[_measure.Row]:
    """Measures every decoder, and reading the input for comparison."""
    arguments = inputs(size)
    timed: dict[str, _measure.Call] = {
        _READING: functools.partial(tf.function(tf.reduce_sum), arguments[0])
    }
    for name, decode in DECODERS.items():
        pair = calls(decode, arguments)
        timed[f"{name} forward"], timed[f"{name} gradient"] = pair
    times = _measure.time_calls(timed, repeats)
    reading = times[_READING]
    rows: list[_measure.Row] = [
        {"name": _READING, "forward_ms": _measure.milliseconds(reading)}
    ]
    for name in DECODERS:
        row: _measure.Row = {"name": name}
        extra = memory_of(name, size) if memory else []
        for index, way in enumerate(("forward", "gradient")):
            own, literal = times[f"{name} {way}"], times[f"{_LITERAL} {way}"]
            row[f"{way}_ms"] = _measure.milliseconds(own)
            row[f"{way}_readings"] = _measure.median_ratio(own, reading)
            row[f"{way}_speedup"] = _measure.median_ratio(literal, own)
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
            f"How many {field.name}.",
            lower_bound=1,
            flag_values=values,
        )
    flags.DEFINE_bool(
        "memory", True, "Whether to measure memory, on Linux.", flag_values=values
    )
    _measure.define_flags(values, repeats=10)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`."""
    size = Size(values.images, values.pixels, values.messages)
    _measure.run(
        "benchmarks.qim",
        argv,
        values,
        lambda: measure(size, repeats=values.repeats, memory=values.memory),
        title=(
            f"The QIM decoder on {size.images} images of {size.pixels} pixels and "
            f"{size.messages} messages, float32"
        ),
        columns=_COLUMNS,
        notes=_NOTES,
    )


def _calls_by_name(name: str, size: Size) -> list[_measure.Call]:
    return calls(DECODERS[name], inputs(size))


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
