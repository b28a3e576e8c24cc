"""The requests that TF Serving runs before a version takes real ones.

They are written in the wire format of TF Serving's protocol buffers, five fields of
which are needed, so that an export does without the package that defines them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_traps.serving.subject import Signature, Subject

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
"""Where TF Serving looks for the records in a version's folder."""

# TF Serving refuses a file of more.
_MAX_RECORDS = 1000


def check_batch_sizes(batch_sizes: Sequence[int], signatures: Sequence[str]) -> None:
    """Refuses sizes that no warm-up can have.

    Args:
        batch_sizes: What the caller passed.
        signatures: The signatures that each size is for.

    Raises:
        ValueError: If one is not a positive integer, or there are too many records.
    """
    wrong = [s for s in batch_sizes if not isinstance(s, int) or s < 1]
    if wrong or len(batch_sizes) * len(signatures) > _MAX_RECORDS:
        raise ValueError(
            "Invalid value for argument `warmup_batch_sizes`. Expected positive "
            f"integers, at most {_MAX_RECORDS // len(signatures)}. "
            f"Received: warmup_batch_sizes={tuple(batch_sizes)}"
        )


def write_warmup(
    subject: Subject, directory: Path, *, name: str, batch_sizes: Sequence[int]
) -> None:
    """Writes one record for every signature and batch size, of uniform noise.

    Args:
        subject: What is served.
        directory: The version's folder.
        name: The model's name on the server.
        batch_sizes: Images in a record.

    Raises:
        OSError: If the file cannot be written.
    """
    path = directory / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in subject.signatures:
            for size in batch_sizes:
                batch = noise(subject, signature, size)
                key = subject.input_key(signature)
                writer.write(prediction_log(name, signature, key, batch))


def noise(subject: Subject, signature: Signature, size: int) -> tf.Tensor:
    """Returns a batch of noise as a signature takes it, always the same.

    Args:
        subject: What is served.
        signature: The signature.
        size: Images in the batch.

    Returns:
        A float32, uint8 or string tensor.
    """
    shape = (size, *subject.image_shape)
    levels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if signature == "serving_uint8":
        return tf.constant(levels)
    if signature == "image_bytes":
        return tf.stack([tf.io.encode_png(image) for image in levels])
    return tf.constant(np.divide(levels, 255, dtype=np.float32))


def prediction_log(
    name: str, signature: str, input_name: str, batch: tf.Tensor
) -> bytes:
    """Returns a serialised `tensorflow.serving.PredictionLog` with one request.

    Args:
        name: The model's name.
        signature: The signature's name.
        input_name: The key of the images.
        batch: The images.

    Returns:
        The message's bytes.
    """
    tensor = tf.make_tensor_proto(batch).SerializeToString()
    spec = _field(1, name.encode()) + _field(3, signature.encode())
    # An entry of a map is a message of its key and its value.
    inputs = _field(1, input_name.encode()) + _field(2, tensor)
    request = _field(1, spec) + _field(2, inputs)
    return _field(6, _field(1, request))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field: its tag, the number of bytes, the bytes."""
    size, length = bytearray(), len(payload)
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return bytes([number << 3 | 2]) + bytes(size) + payload
