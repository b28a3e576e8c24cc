"""Pure TensorFlow functions behind the layers: no state, stock ops only."""

from keras_traps.ops.codes import Key, draw_messages, draw_steps
from keras_traps.ops.forensics import Judgement, judge
from keras_traps.ops.normalized_sum import normalized_sum
from keras_traps.ops.qim import (
    Embedding,
    centred_shift,
    message_signs,
    qim_correlation,
    qim_decode,
    qim_distance,
    qim_embed,
)
from keras_traps.ops.soft_labels import soft_labels

__all__ = [
    "Embedding",
    "Judgement",
    "Key",
    "centred_shift",
    "draw_messages",
    "draw_steps",
    "judge",
    "message_signs",
    "normalized_sum",
    "qim_correlation",
    "qim_decode",
    "qim_distance",
    "qim_embed",
    "soft_labels",
]
