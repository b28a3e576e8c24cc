"""Pure TensorFlow functions behind the layers: no state, stock ops only."""

from keras_traps.ops.codes import Code, Key, draw_code, draw_steps
from keras_traps.ops.forensics import Judgement, judge
from keras_traps.ops.normalized_sum import normalized_sum
from keras_traps.ops.qim import (
    Embedding,
    QIMTables,
    centred_shift,
    qim_correlation,
    qim_decode,
    qim_distance,
    qim_embed,
    qim_tables,
)
from keras_traps.ops.soft_labels import soft_labels

__all__ = [
    "Code",
    "Embedding",
    "Judgement",
    "Key",
    "QIMTables",
    "centred_shift",
    "draw_code",
    "draw_steps",
    "judge",
    "normalized_sum",
    "qim_correlation",
    "qim_decode",
    "qim_distance",
    "qim_embed",
    "qim_tables",
    "soft_labels",
]
