"""Insertion, deletion and randomised weights, on networks whose answer is known."""

import keras
import numpy as np
import pytest
from networks import branched, values

from btlib.scores import faithfulness


@pytest.fixture
def network():
    return branched()


def brightness(size=4):
    """Logits (mean of the slice, 0): the probability follows what is shown."""
    image = keras.Input((size, size, 1))
    x = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(2, use_bias=False)(x))
    model.layers[-1].set_weights([np.array([[1.0, 0.0]], np.float32)])
    return model


def scored(image, heat, steps):
    model = brightness(image.shape[1])
    ends = faithfulness.ends_of(model, image)
    return faithfulness.insertion_deletion(model, image, heat, np.array([0]), steps, ends)


def test_deletion_by_hand():
    image = np.zeros((1, 4, 4), np.float32)
    image[0, 0, :2] = 16  # each pixel adds 1 to the logit
    heat = image + np.linspace(1, 0, 16).reshape(1, 4, 4)
    found = scored(image, heat, steps=16)
    p = [1 / (1 + np.exp(-k)) for k in (2, 1, 0)]
    expected = ((p[0] + p[1]) / 2 + (p[1] + p[2]) / 2 + 14 * p[2]) / 16
    assert found.deletion[0] == pytest.approx(expected, abs=1e-6)


def test_a_better_order_has_lower_deletion_and_higher_insertion():
    image = np.zeros((1, 16, 16), np.float32)
    image[0, 4:8, 4:8] = 100
    good, bad = (scored(image, heat, steps=8).iloc[0] for heat in (image, 100 - image))
    assert good.deletion < bad.deletion and good.insertion >= bad.insertion


def test_weights_come_back_after_an_error(network):
    before = values(network)
    with pytest.raises(KeyError), faithfulness.altered(network, ["norm", "top", "logits"], faithfulness.randomised(0)):
        changed = values(network.get_layer("norm"))
        raise KeyError
    assert [set(np.unique(w)) for w in changed] == [{1}, {0}, {0}, {1}]
    for kept, now in zip(before, values(network), strict=True):
        np.testing.assert_array_equal(kept, now)


def test_shuffling_keeps_the_values(network):
    kernel = values(network.get_layer("logits"))[0]
    with faithfulness.altered(network, ["logits"], faithfulness.shuffled(0)):
        moved = values(network.get_layer("logits"))[0]
    assert not np.array_equal(kernel, moved)
    np.testing.assert_array_equal(np.sort(kernel.ravel()), np.sort(moved.ravel()))


def test_cascade_goes_from_the_head_down():
    steps = faithfulness.cascade_steps({"image": 3, "a": 3, "b": 2, "c": 1, "logits": 0}, groups=5)
    assert list(steps) == ["head", "head and 1 of 3 blocks", "head and 2 of 3 blocks", "whole network"]
    assert steps["head and 1 of 3 blocks"] == ["logits", "c"]
    assert steps["whole network"] == ["logits", "c", "b", "image", "a"]


def test_similarity_of_known_maps():
    ramp = np.linspace(0, 1, 256).reshape(1, 16, 16)
    same, turned = faithfulness.similarity(ramp, ramp).iloc[0], faithfulness.similarity(ramp, 1 - ramp).iloc[0]
    assert same.rank_correlation == pytest.approx(1) and same.ssim == pytest.approx(1)
    assert turned.rank_correlation == pytest.approx(-1) and turned.ssim < 0
    flat = faithfulness.similarity(np.full((1, 16, 16), 0.2), np.full((1, 16, 16), 0.6)).iloc[0]
    assert flat.rank_correlation == 0
    assert flat.ssim == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4))
