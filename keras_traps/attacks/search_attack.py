"""What the optimisation attacks share: a search over c, and a compiled loop."""

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray, check_count, check_number, check_positive
from keras_traps.attacks.base import Attack, Batch, Perturbed
from keras_traps.attacks.loop import once_per_model
from keras_traps.attacks.optimization import Method, compile_search

_DTYPES: dict[Any, tf.DType] = {float: tf.float32, int: tf.int32, bool: tf.bool}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConstantSearchAttack(Attack, abc.ABC):
    """An attack that minimises a distance plus c times a penalty, for several c.

    Args:
        initial_const: The first c, above 0.
        binary_search_steps: How many c to try, at least 1.
        max_iterations: How many steps with each c at most, at least 1.
    """

    initial_const: float
    binary_search_steps: int
    max_iterations: int
    searches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_positive("initial_const", self.initial_const)
        check_count("binary_search_steps", self.binary_search_steps)
        check_count("max_iterations", self.max_iterations)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchAttack(ConstantSearchAttack, abc.ABC):
    """One whose steps are made by a `Method` in the compiled loop.

    Args:
        learning_rate: Size of a step, above 0.
        confidence: Kappa, by how much the answer that is wanted has to lead, in the
            unit of the logits; not below 0. A clean image is kept where it does so
            already. Defaults to `0.0`.
        abort_early: Whether an example goes on to its next c when a tenth of the steps
            has not lowered its mean loss by 0.01 %. Defaults to `True`.
    """

    learning_rate: float
    confidence: float = 0.0
    abort_early: bool = True
    method: ClassVar[type[Method]]

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_positive("learning_rate", self.learning_rate)
        check_number(self.confidence, name="confidence", at_least=0)

    def draws(self, batch: Batch) -> FloatArray:
        """Returns what is drawn at random, `(batch, count, ...)`. Here nothing."""
        return np.zeros((len(batch.images), 0), np.float32)

    def scalars(self) -> dict[str, Any]:
        """Returns the hyper-parameters that are numbers, as the loop takes them."""
        return {
            field.name: tf.constant(getattr(self, field.name), _DTYPES[field.type])
            for field in dataclasses.fields(self)
            if field.type in _DTYPES
        }

    def perturb(self, batch: Batch) -> Perturbed:
        """Searches for the nearest success."""
        settings = {**self.scalars(), "targeted": tf.constant(self.targeted)}
        images = tf.constant(batch.images)
        draws = tf.constant(self.draws(batch))
        search = once_per_model(
            batch.model,
            ("search", self.method),
            lambda logits: compile_search(
                self.method,
                logits,
                images=tf.TensorSpec((None, *images.shape[1:]), tf.float32),
                draws=tf.TensorSpec((None, None, *draws.shape[2:]), tf.float32),
                settings={
                    name: tf.TensorSpec((), value.dtype)
                    for name, value in settings.items()
                },
            ),
        )
        return Perturbed(
            *search(
                images,
                tf.constant(batch.labels),
                tf.constant(batch.ids),
                draws,
                settings,
            )
        )
