"""A reference server of the TensorFlow Serving API: a test double, not a product.

It has the official PredictionService and ModelService stubs, the REST paths, and a
poll of the version folder, and runs the signatures by `tf.saved_model.load`. It
imports nothing of keras_traps, so what it serves needs nothing of it either.

What it cannot prove is whatever is TensorFlow Serving's own: its C++ loader, batching,
model configuration, and the wording of its errors.
"""
