"""Networks small enough to know what they do."""

import keras
import numpy as np

SIZE = 8


def by_hand(weights=((1.0, -1.0), (2.0, 0.0)), size=SIZE):
    """1 x 1 convolution to two channels, A_1 = x and A_2 = 2 x, pooling, and logits with the given weights."""
    image = keras.Input((size, size, 1), name="image")
    x = keras.layers.Conv2D(2, 1, use_bias=False, name="features")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(len(weights[0]), name="logits")(x))
    model.get_layer("features").set_weights([np.array([1.0, 2.0], np.float32).reshape(1, 1, 1, 2)])
    model.get_layer("logits").set_weights([np.array(weights, np.float32), np.zeros(len(weights[0]), np.float32)])
    return model


def values(layer):
    return [np.array(np.asarray(weight)) for weight in layer.weights]


def branched():
    """A small network with what real ones have: strides, batch normalisation, a residual branch, a nonlinear head."""
    keras.utils.set_random_seed(3)
    image = keras.Input((16, 16, 1), name="image")
    x = keras.layers.Conv2D(6, 3, strides=2, padding="same", activation="swish", name="stem")(image)
    y = keras.layers.Conv2D(6, 3, padding="same", activation="swish", name="branch")(x)
    y = keras.layers.BatchNormalization(name="norm")(y)
    x = keras.layers.Add(name="sum")([x, y])
    x = keras.layers.Conv2D(8, 3, padding="same", activation="swish", name="top")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(5, activation="tanh", name="dense")(x)
    return keras.Model(image, keras.layers.Dense(3, name="logits")(x))
