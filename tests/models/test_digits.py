import keras

from keras_traps.datasets import load
from keras_traps.models import digits_cnn, train


def test_parameter_count_is_pinned() -> None:
    assert digits_cnn().count_params() == 30_634


def test_layers_are_named_and_the_last_has_no_activation() -> None:
    model = digits_cnn()
    assert [layer.name for layer in model.layers] == [
        "image",
        "conv1",
        "conv2",
        "pool1",
        "dropout1",
        "conv3",
        "pool2",
        "flatten",
        "dropout2",
        "logits",
    ]
    assert model.layers[-1].activation is keras.activations.linear


def test_it_learns_the_digits() -> None:
    keras.utils.set_random_seed(0)
    model = digits_cnn()
    train(model, load("digits"), epochs=20, batch_size=32, learning_rate=2e-3)
    test = load("digits", "test")
    results = model.evaluate(test.images, test.labels, verbose=0, return_dict=True)
    assert results["accuracy"] >= 0.975
