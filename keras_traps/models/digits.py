"""A small classifier for scikit-learn's 8x8 digits: trained in seconds on a CPU."""

import keras
from keras import layers


def digits_cnn() -> keras.Model:
    """Builds a small CNN for the built-in digits, untrained.

    Returns:
        A model from images `(batch, 8, 8, 1)` in [0, 1] to logits `(batch, 10)`;
        30,634 parameters.
    """
    x = inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="conv1")(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(name="pool1")(x)
    x = layers.Dropout(0.25, name="dropout1")(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="conv3")(x)
    x = layers.MaxPooling2D(name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.25, name="dropout2")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="digits_cnn")
