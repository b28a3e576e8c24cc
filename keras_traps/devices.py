"""TensorFlow and the machine's devices, set up the same way by every recipe."""

import logging

import tensorflow as tf


def prepare_devices() -> str:
    """Lets GPUs take memory as needed, and switches TensorFloat-32 off.

    TensorFloat-32 rounds products to 10 bits, which moves reported numbers. Call this
    before anything runs on a GPU. On a machine without one it changes nothing.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, enable=True)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return f"{len(gpus)} GPU" if gpus else "CPU"


def limit_threads(count: int) -> None:
    """Limits TensorFlow to some cores, where it has not begun to work yet."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
    except RuntimeError:  # it has, and its threads are there
        return


def hush_retracing() -> None:
    """Keeps TensorFlow from warning of retracing in the middle of a progress bar.

    A process that attacks several models traces each of them, by construction.
    """
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
