"""Attacks along the gradient, and those made to transfer: one compiled loop with hooks.

The steps are cleverhans', whose own loops run in Python: they cost a small classifier a
tenth of the time, and keep a trace of each model for good.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray, is_number
from keras_traps.attacks.base import (
    Batch,
    Count,
    LinfAttack,
    NotNegative,
    NotNegativeShare,
    Perturbed,
    Positive,
    ball_noise,
    uniform_start,
)
from keras_traps.attacks.loop import (
    L2,
    LINF,
    Finished,
    Logits,
    Loss,
    Norm,
    Step,
    Stream,
    apart,
    compiled,
    fooled,
    iterate,
    per_example,
    rivals_lead,
    sift,
    watch,
)
from keras_traps.models.inference import inference_function

# By how much smaller, and how many zeros come before, in height and in width. The last
# of the zeros that a size leaves room for is never drawn as an offset in the authors'
# code, whose upper bound is not drawn itself.
_VARIANTS = ((0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 0, 1), (2, 1, 0), (2, 1, 1))
_LARGEST_LESS = 2


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What sets one gradient attack apart from another; fixed when it is compiled."""

    norm: Norm = LINF
    momentum: bool = False
    look: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    transform_gradient: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    infer: Callable[[keras.Model], Logits] = inference_function
    abort_early: bool = False
    averaged: bool = False  # over noise on the images; then nothing stops early


class LoopSettings(NamedTuple):
    """Hyper-parameters: tensors in the compiled loop, where they cost no retrace."""

    eps: Any
    eps_iter: Any
    nb_iter: Any
    targeted: Any
    decay_factor: Any = 1.0  # how much of the earlier gradients' sum stays
    kernel: Any = (1.0,)  # (length,), for a recipe that transforms gradients
    sigma: Any = 0.0  # of the noise, and how often it is drawn, for one that averages
    eot_iter: Any = 1


_FLOAT, _INT = tf.float32, tf.int32
_DTYPES = LoopSettings(_FLOAT, _FLOAT, _INT, tf.bool, _FLOAT, _FLOAT, _FLOAT, _INT)


class GradientAttack(LinfAttack, abc.ABC):
    """The template: iterated steps along a gradient from a start in the ball."""

    losses = ("cross_entropy", "margin")

    def _recipe(self) -> Recipe:
        return Recipe()

    @abc.abstractmethod
    def _loop_settings(self) -> LoopSettings: ...

    def _start(self, batch: Batch) -> FloatArray:
        return batch.images

    def _draws(self, batch: Batch) -> npt.NDArray[np.int32]:
        """Returns `(batch, nb_iter)`: what `look` is given, or noise is drawn from."""
        return np.zeros((len(batch.ids), 0), np.int32)

    def perturb(self, batch: Batch) -> Perturbed:
        """Raises the loss away from the labels, or lowers it towards targets."""
        recipe = self._recipe()
        arguments = (
            batch.images,
            self._start(batch).astype(np.float32),
            batch.labels,
            batch.ids,
            self._draws(batch),
            LoopSettings(*map(tf.cast, self._loop_settings(), _DTYPES)),
        )
        loop = compiled(
            batch.model,
            ("gradient loop", recipe, batch.loss),
            lambda _: _Steps(recipe.infer(batch.model), recipe, batch.loss).run,
            arguments,
        )
        return Perturbed(*loop(*arguments))


class _Rows(NamedTuple):
    """The examples that are still worked on; the first axis is theirs."""

    position: tf.Tensor
    clean: tf.Tensor
    labels: tf.Tensor  # targets or true classes
    ids: tf.Tensor
    draws: tf.Tensor  # one column for each step, or none
    images: tf.Tensor
    memory: tf.Tensor  # the sum of earlier gradients, or no columns


class _Steps(NamedTuple):
    """The loop on a model, as a graph."""

    infer: Logits
    recipe: Recipe
    loss: Loss

    def run(
        self,
        clean: tf.Tensor,
        start: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        draws: tf.Tensor,
        settings: LoopSettings,
    ) -> Finished:
        count = tf.shape(clean)[0]
        position = tf.range(count)
        memory = tf.zeros_like(clean) if self.recipe.momentum else tf.zeros((count, 0))

        def advance(step: tf.Tensor, rows: _Rows, finished: Finished) -> Step[_Rows]:
            gradient, logits = apart(self.gradient)(rows, step, settings)
            if self.recipe.abort_early:
                result = rows.position, rows.images, step
                done = fooled(logits, rows.labels, settings.targeted)
                (rows, gradient), finished = sift(
                    done, (rows, gradient), finished, result
                )
            return step + 1, self.move(rows, gradient, settings), finished

        step, rows, finished = iterate(
            _Rows(position, clean, labels, ids, draws, start, memory),
            advance,
            finished=Finished(start, tf.zeros_like(position)),
            steps=settings.nb_iter,
        )
        return finished.write(rows.position, rows.images, step)

    def gradient(
        self, rows: _Rows, step: tf.Tensor, settings: LoopSettings
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns where to go, and the answers at the images."""
        measure = self.average if self.recipe.averaged else self.slope
        gradient, logits = measure(rows, step, settings)
        if self.recipe.transform_gradient is not None:
            gradient = self.recipe.transform_gradient(gradient, settings.kernel)
        return gradient, logits

    def slope(
        self, rows: _Rows, step: tf.Tensor, settings: LoopSettings
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the gradient as it is, and the answers."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(rows.images)
            shown = rows.images
            if self.recipe.look is not None:
                shown = self.recipe.look(shown, rows.draws[:, step])
            logits = self.infer(watch(shown, rows.ids))
            lead = rivals_lead(logits, rows.labels, self.loss)
            gain = tf.where(settings.targeted, -lead, lead)
        return tape.gradient(gain, rows.images), logits

    def average(
        self, rows: _Rows, step: tf.Tensor, settings: LoopSettings
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the mean gradient with noise, in [0, 1], and nothing of answers."""
        shape = rows.images.shape[1:]

        def look(number: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            def draw(seed: tf.Tensor) -> tf.Tensor:
                return tf.random.stateless_normal(shape, [seed, number], alg="philox")

            drawn = tf.TensorSpec(shape, tf.float32)
            noise = tf.map_fn(draw, rows.draws[:, step], fn_output_signature=drawn)
            noisy = tf.clip_by_value(rows.images + settings.sigma * noise, 0.0, 1.0)
            there = rows._replace(images=noisy)
            return number + 1, total + self.slope(there, step, settings)[0]

        _, total = tf.while_loop(
            lambda number, _: number < settings.eot_iter,
            look,
            (tf.constant(0), tf.zeros_like(rows.images)),
        )
        return total / tf.cast(settings.eot_iter, tf.float32), tf.zeros((0, 0))

    def move(self, rows: _Rows, gradient: tf.Tensor, settings: LoopSettings) -> _Rows:
        """Returns the rows with their images one step further."""
        memory = rows.memory
        if self.recipe.momentum:
            size = tf.reduce_mean(tf.abs(gradient), axis=(1, 2, 3), keepdims=True)
            gradient = tf.math.divide_no_nan(gradient, size)
            memory = gradient = settings.decay_factor * memory + gradient
        moved = rows.images + settings.eps_iter * self.recipe.norm.step(gradient)
        images = self.recipe.norm.project(moved, rows.clean, settings.eps)
        return rows._replace(images=images, memory=memory)


class FGSM(GradientAttack):
    """Fast gradient sign method: one step of `eps` (Goodfellow et al., 2015)."""

    name = "FGSM"

    def _loop_settings(self) -> LoopSettings:
        return LoopSettings(self.eps, self.eps, 1, self.targeted)


class LLC(FGSM):
    """FGSM towards the least likely class (Kurakin et al., 2017)."""

    name = "LLC"
    kind = "TA"
    target_rule = "least_likely"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RFGSM(GradientAttack):
    """A random step of `alpha` along signs of noise, then a gradient step of the rest.

    Tramèr et al., 2018; the paper's Table VII calls the gradient step eps.
    """

    alpha: float  # above 0 and below `eps`
    name = "RFGSM"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (is_number(self.alpha) and 0 < self.alpha < self.eps):
            raise ValueError(
                "Invalid value for argument `alpha`. Expected a number between 0 and "
                f"eps={self.eps}. Received: alpha={self.alpha!r}"
            )

    def _loop_settings(self) -> LoopSettings:
        return LoopSettings(self.eps, self.eps - self.alpha, 1, self.targeted)

    def _start(self, batch: Batch) -> FloatArray:
        signs = ball_noise(
            batch, lambda shape, draw: np.sign(draw.standard_normal(shape))
        )
        return np.clip(batch.images + self.alpha * signs, 0, 1)


class RLLC(RFGSM):
    """RFGSM towards the least likely class (Tramèr et al., 2018)."""

    name = "RLLC"
    kind = "TA"
    target_rule = "least_likely"


def check_step(eps_iter: float, radius: float, *, name: str = "eps") -> None:
    """Refuses a step that reaches beyond the ball at once."""
    if eps_iter > radius:
        raise ValueError(
            "Invalid value for argument `eps_iter`. Expected at most "
            f"{name}={radius}. Received: eps_iter={eps_iter}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterativeAttack(GradientAttack, abc.ABC):
    """A gradient attack of many steps, in the ball whose radius is named `ball`."""

    eps_iter: Positive  # at most the radius
    nb_iter: Count
    ball = "eps"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_step(self.eps_iter, getattr(self, self.ball), name=self.ball)

    def _loop_settings(self) -> LoopSettings:
        radius = getattr(self, self.ball)
        return LoopSettings(radius, self.eps_iter, self.nb_iter, self.targeted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BIM(IterativeAttack):
    """Basic iterative method: projected FGSM steps (Kurakin et al., 2017)."""

    abort_early: bool = False  # whether an example stops as soon as it has succeeded
    name = "BIM"

    def _recipe(self) -> Recipe:
        return Recipe(abort_early=self.abort_early)


class ILLC(BIM):
    """BIM towards the least likely class (Kurakin et al., 2017)."""

    name = "ILLC"
    kind = "TA"
    target_rule = "least_likely"


class PGD(BIM):
    """Projected gradient descent: BIM from a random point (Madry et al., 2018)."""

    name = "PGD"

    def _start(self, batch: Batch) -> FloatArray:
        return uniform_start(batch, self.eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIM(IterativeAttack):
    """Momentum iterative method (Dong et al., 2018)."""

    decay_factor: NotNegative = 1.0  # how much of the earlier gradients' sum stays
    name = "MIM"

    def _recipe(self) -> Recipe:
        return Recipe(momentum=True)

    def _loop_settings(self) -> LoopSettings:
        return super()._loop_settings()._replace(decay_factor=self.decay_factor)


class UMIFGSM(MIM):
    """MIM, by the name that the attractor paper has for it."""

    name = "UMIFGSM"
    note = (
        "Each gradient is divided by its mean absolute value before it is added to the "
        "momentum, as the attack's authors and cleverhans do; DEEPSEC does not."
    )


class TMIFGSM(UMIFGSM):
    """MIM towards a given class."""

    name = "TMIFGSM"
    kind = "TA"
    target_rule = "random"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DIM(MIM):
    """MIM with input diversity.

    At each step the model is shown the image as it is or, with probability `prob`,
    shrunk by 1 or 2 pixels and padded with zeros (Xie et al., 2019).
    """

    prob: NotNegativeShare = 0.5
    name = "DIM"
    needs_channels_last = True
    note = (
        "Each image is resized by draws of its own; the luring paper's code draws once "
        "for a batch."
    )

    def _recipe(self) -> Recipe:
        return dataclasses.replace(super()._recipe(), look=_show_variants)

    def _draws(self, batch: Batch) -> npt.NDArray[np.int32]:
        shortest = min(batch.images.shape[1:3])
        if shortest <= _LARGEST_LESS:
            raise ValueError(
                "Invalid value for argument `x`. Input diversity makes images smaller "
                f"by {_LARGEST_LESS} pixels: expected longer sides. Received: x with a "
                f"side of {shortest}"
            )
        steps = self.nb_iter

        def draw(generator: np.random.Generator) -> npt.NDArray[np.int32]:
            changed = generator.random(steps) < self.prob
            by_two = generator.random(steps) < 0.5
            place = generator.integers(2, len(_VARIANTS), steps)
            return np.where(changed, np.where(by_two, place, 1), 0).astype(np.int32)

        return per_example(draw, batch.ids, batch.seed, Stream.DIVERSITY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIMTI(MIM):
    """MIM whose gradients are convolved with a Gaussian (Dong et al., 2019)."""

    kernlen: Count = 5  # length of the kernel's sides
    nsig: Positive = 3  # standard deviations on each side of its middle
    name = "MIM-TI"
    needs_channels_last = True

    def _recipe(self) -> Recipe:
        return dataclasses.replace(super()._recipe(), transform_gradient=smooth)

    def _loop_settings(self) -> LoopSettings:
        kernel = gaussian_kernel(self.kernlen, self.nsig)
        return super()._loop_settings()._replace(kernel=kernel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DIMTI(DIM, MIMTI):
    """MIM with input diversity and with convolved gradients (Dong et al., 2019)."""

    name = "DIM-TI"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIML2(MIM):
    """MIM with L2 steps in an L2 ball, whose result is then clipped to `eps`.

    So does the luring paper: it compares with the attacks in the L-infinity ball.
    """

    radius: Positive  # of the L2 ball: cleverhans' `eps` for this norm
    ball = "radius"
    name = "MIML2"

    @property
    def l2_bound(self) -> float:
        """The radius of the L2 ball."""
        return self.radius

    def _recipe(self) -> Recipe:
        return Recipe(norm=L2, momentum=True)

    def perturb(self, batch: Batch) -> Perturbed:
        """Iterates from the clean image, then clips."""
        moved = super().perturb(batch)
        eps = np.float32(self.eps)
        low, high = batch.images - eps, batch.images + eps
        return Perturbed(np.clip(moved.images, low, high), moved.iterations)


def _show_variants(images: tf.Tensor, variants: tf.Tensor) -> tf.Tensor:
    """Returns each image resized by nearest neighbours, then padded with zeros."""
    _, height, width, _ = images.shape
    down = tf.gather(_selections(height, [row[:2] for row in _VARIANTS]), variants)
    across = tf.gather(
        _selections(width, [(less, left) for less, _, left in _VARIANTS]), variants
    )
    # Each product picks single values, so that it is exact; its gradient puts them
    # back in their places.
    return tf.einsum("nih,nhwc,njw->nijc", down, images, across)


def _selections(size: int, variants: list[tuple[int, ...]]) -> FloatArray:
    """Returns `(variants, size, size)`: which pixel, if any, comes to which place."""
    matrices = np.zeros((len(variants), size, size), np.float32)
    for matrix, (less, before) in zip(matrices, variants, strict=True):
        smaller = size - less
        # As TensorFlow 1 resizes, and in float32 as it does.
        scale = np.float32(size / smaller)
        chosen = np.floor(np.arange(smaller, dtype=np.float32) * scale).astype(int)
        matrix[before + np.arange(smaller), np.minimum(chosen, size - 1)] = 1
    return matrices


def smooth(gradients: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves along height, then along width; beyond the edges there are zeros."""
    filters = tf.tile(kernel[:, None, None, None], (1, 1, gradients.shape[-1], 1))
    strides = (1, 1, 1, 1)
    down = tf.nn.depthwise_conv2d(gradients, filters, strides, "SAME")
    across = tf.transpose(filters, (1, 0, 2, 3))
    return tf.nn.depthwise_conv2d(down, across, strides, "SAME")


def gaussian_kernel(kernlen: int, nsig: float) -> FloatArray:
    """Returns the kernel along one axis, with sum 1.

    That of the authors' code is its outer product with itself.
    """
    density = np.exp(-np.square(np.linspace(-nsig, nsig, kernlen)) / 2)
    return (density / density.sum()).astype(np.float32)
