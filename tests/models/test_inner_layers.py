import keras

from keras_traps.models.inner_layers import inner_layers


def test_the_layers_of_a_model_within_follow_it() -> None:
    image = keras.Input((2,), name="image")
    inner = keras.Model(image, keras.layers.ReLU(name="relu")(image), name="inner")
    model = keras.Sequential([keras.Input((2,)), inner, keras.layers.Dense(1)])
    names = [layer.name for layer in inner_layers(model)]
    assert names[:3] == ["inner", "image", "relu"]
    assert len(names) == 4


def test_a_layer_has_none() -> None:
    assert not list(inner_layers(keras.layers.ReLU()))
