"""What the compiled loops of attacks share: cache, rows, losses, norms and draws."""

import enum
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple, TypeVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import IntArray
from keras_traps.models.inference import TRACING, PerModel, inference_function

Loss = Literal["cross_entropy", "margin", "dlr"]
"""`"cross_entropy"` of the softmax of the logits; `"margin"` between two classes; or
`"dlr"`, the difference of logits ratio.

The margin is that of the given class to its strongest rival. The ratio is the margin as
a share of the largest logit's lead over the third, so that no scale of the logits
matters: Croce and Hein, 2020, equation 6. With two classes it is the margin.
"""

Logits = Callable[[tf.Tensor], tf.Tensor]
Part = TypeVar("Part")
Rows = TypeVar("Rows")

_parts: PerModel[dict[Hashable, Any]] = PerModel()

# Some ten roundings of float32. An answer that is closer than this to another one may
# be that other one when the image is looked at in a batch of another size.
_ROUNDING = 1e-5
# Of two classes that tie, a model that subtracts each row's largest logit leaves two
# small numbers with the rounding of large ones. The other logits tell how large those
# were; but one of -1e9 masks its class, and tells nothing.
_LARGEST_OTHER = 10.0
# Where all logits are 0 no answer is the one that is wanted either.
_LEAST = np.finfo(np.float32).tiny

DLR_LEAST = 1e-12
"""What the authors of the difference of logits ratio add to what they divide by."""

NON_FINITE = "The gradient holds numbers that are not finite, at the examples"
"""How the message of a gradient that is not finite begins."""


def refuse(wrong: npt.NDArray[Any], ids: IntArray, fault: str, what: str = "") -> None:
    """Raises `fault`, and `what` there is, with the ids of the wrong examples."""
    if wrong.any():
        listed = np.array2string(
            ids[wrong], threshold=8, edgeitems=4, formatter={"int_kind": str}
        )
        raise RuntimeError(f"{fault} at the examples {listed}{what}.")


def once_per_model(
    model: keras.Model, key: Hashable, build: Callable[[Logits], Part]
) -> Part:
    """Returns what `build` makes of a model's logits function, kept with the model."""
    # What is made must not hold the model itself, or that is never freed.
    with TRACING:
        parts = _parts.get(model, dict)
        if key not in parts:
            parts[key] = build(inference_function(model))
        return parts[key]


def compiled(
    model: keras.Model,
    key: Hashable,
    graph: Callable[[Logits], Callable[..., Any]],
    arguments: tuple[Any, ...],
) -> Callable[..., Any]:
    """Returns a graph of a model's logits function, compiled for such `arguments`."""
    # Hyper-parameters are among the arguments, and do not belong in `key`.

    def spec(argument: Any) -> tf.TensorSpec:
        tensor = tf.convert_to_tensor(argument)
        image = tensor.shape[-3:] if tensor.shape.rank > 3 else ()
        left_open = [None] * (tensor.shape.rank - len(image))
        return tf.TensorSpec([*left_open, *image], tensor.dtype)

    def build(logits: Logits) -> Any:
        signature = tf.nest.map_structure(spec, arguments)
        return tf.function(graph(logits), input_signature=signature, autograph=False)

    function = once_per_model(model, key, build)
    # Once and for all, and not counted among its callers' retracings.
    with TRACING:
        if not function.experimental_get_tracing_count():
            function.get_concrete_function()
    return function


def apart(part: Callable[..., Part]) -> Callable[..., Part]:
    """Returns a part of a compiled loop, with its gradients, in a graph of its own."""
    # In the loop's it is left to chance whether oneDNN takes the gradient of a max
    # pooling. Where not, a step of a small convolutional network takes 60 % longer.
    function: Callable[..., Part] = tf.function(
        part, autograph=False, experimental_attributes={"_noinline": True}
    )
    return function


def watch(images: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Returns images as they are; a gradient not finite there names the examples."""
    return tf.ensure_shape(_watch(images, ids), images.shape)


@tf.function(
    input_signature=[
        tf.TensorSpec(None, tf.float32),
        tf.TensorSpec((None,), tf.int64),
    ],
    autograph=False,
)
def _watch(images: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    # A graph of its own, traced once: TensorFlow registers each trace of a custom
    # gradient for ever, with the graph that it is in, and with that the model.
    @tf.custom_gradient
    def unchanged(images: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tf.Tensor]]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            rows = tf.reshape(upstream, (tf.shape(upstream)[0], -1))
            finite = tf.reduce_all(tf.math.is_finite(rows), axis=1)
            # An example may be shown in several rows.
            bad, _ = tf.unique(tf.boolean_mask(ids, ~finite))
            check = tf.debugging.Assert(
                tf.reduce_all(finite), [NON_FINITE, bad], summarize=8
            )
            with tf.control_dependencies([check] if check is not None else []):
                return tf.identity(upstream)

        return tf.identity(images), backward

    return unchanged(images)


class Finished(NamedTuple):
    """What became of each example of a batch."""

    images: tf.Tensor
    iterations: tf.Tensor

    def write(
        self, position: tf.Tensor, images: tf.Tensor, iterations: tf.Tensor
    ) -> "Finished":
        """Puts down what became of the examples at some positions of the batch."""
        steps = tf.broadcast_to(iterations, tf.shape(position))
        return Finished(
            tf.tensor_scatter_nd_update(self.images, position[:, None], images),
            tf.tensor_scatter_nd_update(self.iterations, position[:, None], steps),
        )


def only(mask: tf.Tensor, rows: Rows) -> Rows:
    """Returns those rows, of tensors in any structure, where `mask` is true."""
    index = tf.where(mask)[:, 0]
    return tf.nest.map_structure(lambda part: tf.gather(part, index), rows)


Step = tuple[tf.Tensor, Rows, Finished]
"""The number of the next step, the rows that are left, and what became of others."""


def iterate(
    rows: Rows,
    advance: Callable[[tf.Tensor, Rows, Finished], Step[Rows]],
    *,
    finished: Finished,
    steps: tf.Tensor | int = 2**31 - 1,
) -> Step[Rows]:
    """Works on rows, of which those that are done leave, as long as any is left."""
    return tf.while_loop(
        lambda number, rows, _: (
            (number < steps) & (tf.size(tf.nest.flatten(rows)[0]) > 0)
        ),
        advance,
        (tf.constant(0), rows, finished),
    )


def sift(
    done: tf.Tensor,
    rows: Rows,
    finished: Finished,
    result: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
) -> tuple[Rows, Finished]:
    """Takes rows out where `done`, and puts down their position, images and steps."""

    def leave() -> tuple[Rows, Finished]:
        position, images, iterations = result
        steps = tf.broadcast_to(iterations, tf.shape(position))
        written = finished.write(*only(done, (position, images, steps)))
        return only(~done, rows), written

    # Most steps see no row leave, and need copy none.
    return tf.cond(tf.reduce_any(done), leave, lambda: (rows, finished))


def rivals_lead(logits: tf.Tensor, labels: tf.Tensor, loss: Loss) -> tf.Tensor:
    """Returns how far the other classes lie above the given one.

    The cross-entropy is log(1 + exp(lead)) of the lead that is taken over all rivals
    by log-sum-exp. Both have the same gradient up to a positive factor, which the
    attacks here do not look at; but the cross-entropy's vanishes in float32 where the
    model is sure, and the lead's does not.
    """
    given = tf.one_hot(labels, tf.shape(logits)[-1], on_value=True, off_value=False)
    # A quarter of the lowest number, so that differences of two are finite.
    rivals = tf.where(given, logits.dtype.min / 4, logits)
    if loss == "cross_entropy":
        highest = tf.reduce_logsumexp(rivals, axis=-1)
    else:
        # One rival where several are alike: `reduce_max` shares the gradient out.
        strongest = tf.argmax(rivals, axis=-1)
        highest = tf.gather(logits, strongest, axis=-1, batch_dims=1)
    lead = highest - tf.gather(logits, labels, axis=-1, batch_dims=1)
    if loss != "dlr" or logits.shape[-1] < 3:
        return lead
    first, _, third = tf.unstack(tf.math.top_k(logits, 3).values, axis=-1)
    return lead / (first - third + DLR_LEAST)


def fooled(
    logits: tf.Tensor, labels: tf.Tensor, targeted: tf.Tensor | bool
) -> tf.Tensor:
    """Returns `(rows,)`: which examples have succeeded, clear of rounding.

    The answer is the target, or not the true class, whichever `labels` are, and the
    next one lies behind it by more than `rounding`. Logits may be of any scale.
    """
    lead = rivals_lead(logits, labels, "margin")
    return tf.where(targeted, -lead, lead) > rounding(logits, labels)


def rounding(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns `(rows,)`: how far answers have to be apart to be told apart for sure.

    1e-5 of the larger of the label's logit and its strongest rival's, or of the row's
    largest, as far as that is not above 10. Above 0, and a constant to gradients.
    """
    given = tf.gather(logits, labels, axis=-1, batch_dims=1)
    rival = given + rivals_lead(logits, labels, "margin")
    compared = tf.maximum(tf.abs(given), tf.abs(rival))
    others = tf.minimum(tf.reduce_max(tf.abs(logits), axis=-1), _LARGEST_OTHER)
    largest = tf.stop_gradient(tf.maximum(compared, others))
    return tf.maximum(_ROUNDING * largest, _LEAST)


class Norm(NamedTuple):
    """How far and where a gradient attack may go."""

    step: Callable[[tf.Tensor], tf.Tensor]
    project: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def _project_linf(images: tf.Tensor, clean: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    inside = clean + tf.clip_by_value(images - clean, -eps, eps)
    return tf.clip_by_value(inside, 0.0, 1.0)


def normalised(direction: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the length of each image's direction, and the direction with length 1."""
    # The square of a large or small number is none in float32.
    largest = tf.reduce_max(tf.abs(direction), axis=(1, 2, 3), keepdims=True)
    scaled = tf.math.divide_no_nan(direction, largest)
    length = _length(scaled)
    return largest * length, tf.math.divide_no_nan(scaled, length)


def _project_l2(images: tf.Tensor, clean: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    way = images - clean
    inside = clean + way * tf.minimum(1.0, tf.math.divide_no_nan(eps, _length(way)))
    return tf.clip_by_value(inside, 0.0, 1.0)


def _length(values: tf.Tensor) -> tf.Tensor:
    squares = tf.reduce_sum(tf.square(values), axis=(1, 2, 3), keepdims=True)
    return tf.sqrt(squares)


LINF = Norm(tf.sign, _project_linf)
"""Steps of the gradient's sign, in a box."""

L2 = Norm(lambda direction: normalised(direction)[1], _project_l2)
"""Steps along the gradient, in a sphere."""


class Moments(NamedTuple):
    """Adam's averages of gradients and of their squares; 0 before the first step."""

    mean: tf.Tensor
    square: tf.Tensor


def adam(
    gradient: tf.Tensor,
    moments: Moments,
    number: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    epsilon: float,
) -> tuple[tf.Tensor, Moments]:
    r"""Returns Adam's step, to be subtracted from the variable, and its averages then.

    $$\eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
    \frac{m}{\sqrt{v} + \hat\epsilon}$$

    `number` is t, counted from 1, a scalar or of a shape that broadcasts with the
    gradient's.

    Kingma and Ba, 2015, algorithm 1 in the form that ends section 2.
    """
    mean = 0.9 * moments.mean + (1 - 0.9) * gradient
    square = 0.999 * moments.square + (1 - 0.999) * tf.square(gradient)
    rate = tf.sqrt(1 - tf.pow(0.999, number)) / (1 - tf.pow(0.9, number))
    step = learning_rate * rate * mean / (tf.sqrt(square) + epsilon)
    return step, Moments(mean, square)


@enum.unique
class Stream(enum.IntEnum):
    """What is drawn: each has draws of its own. Results depend on the numbers."""

    TARGETS = 1
    BALL_NOISE = 2
    DIVERSITY = 3
    SPSA_SEEDS = 4
    OPTMARGIN_NOISES = 5
    NOISE = 6
    CLEVERHANS = 7
    QUERIES = 8
    EOT_SEEDS = 9


def generators(ids: IntArray, seed: int, stream: Stream) -> list[np.random.Generator]:
    """Makes a generator for each example, whatever batch it is in."""
    seeds = [np.random.SeedSequence([seed, stream, int(one)]) for one in ids]
    return [np.random.default_rng(own) for own in seeds]


def per_example(
    draw: Callable[[np.random.Generator], npt.ArrayLike],
    ids: IntArray,
    seed: int,
    stream: Stream,
) -> npt.NDArray[Any]:
    """Draws for each example from a generator of its own."""
    return np.stack([draw(own) for own in generators(ids, seed, stream)])
