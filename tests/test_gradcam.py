"""Maps that can be worked out by hand, the cases where others divide by zero, and what other packages draw."""

import textwrap

import keras
import numpy as np
import pytest
from networks import SIZE, branched, by_hand, values

from btlib import DataError
from btlib.fitting import batches
from btlib.models import cams
from btlib.scores import faithfulness, gradcam


@pytest.fixture(scope="module")
def network():
    return branched()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 3, (7, 16, 16)).astype(np.float32)


def gradients(model, images, classes, layer):
    explained = np.eye(model.output_shape[-1], dtype=np.float32)[classes]
    return [np.asarray(end) for end in gradcam.step_of(model, layer)(images[..., None], explained)]


def test_gradcam_of_a_graph_worked_out_by_hand():
    model = by_hand()
    image = np.zeros((1, SIZE, SIZE), np.float32)
    image[0, 2, 3], image[0, 5, 5] = 4, 1
    # Class 0: each channel's mean gradient is its weight / 64; map = (1 x + 2 * 2 x) / 64, and x / max after that.
    np.testing.assert_allclose(gradcam.maps(model, image, 0, layer="features"), image / 4, atol=1e-7)
    # Class 1: (-1 x + 0 * 2 x) / 64 is nowhere positive.
    assert not gradcam.maps(model, image, 1, layer="features").any()
    features, slopes = gradients(model, image, [0], "features")
    np.testing.assert_allclose(features[0, 2, 3], [4, 8])
    np.testing.assert_allclose(slopes, np.broadcast_to(np.float32([1 / 64, 2 / 64]), slopes.shape), rtol=1e-6)


FEATURES = np.array([[[[1.0, 2.0], [3.0, 0.0]]]])
SLOPES = np.array([[[[1.0, -1.0], [3.0, 2.0]]]])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("gradcam", [1 * 2 + 2 * 0.5, 3 * 2 + 0]),
        ("hirescam", [1 * 1 + 2 * -1, 3 * 3 + 0]),
        ("layercam", [1 * 1 + 0, 3 * 3 + 0]),
        # alpha = g^2 / (2 g^2 + g^3 * sum of the channel); channel 1 sums to 4, channel 2 to 2.
        ("gradcam++", [1 * (1 / 6 * 1 + 9 / 126 * 3) + 2 * (4 / 24 * 2), 3 * (1 / 6 * 1 + 9 / 126 * 3)]),
    ],
)
def test_each_method_on_two_places_and_two_channels(method, expected):
    np.testing.assert_allclose(cams.METHODS[method](FEATURES, SLOPES)[0, 0], expected)


def test_gradcam_plus_plus_where_its_denominator_is_zero():
    slopes = np.array([[[[-1.0, 0.0]]]])  # 2 * 1 - 1 * 2 = 0 in the first channel, 0 in the second
    assert cams.gradcam_plus_plus(np.array([[[[2.0, 5.0]]]]), slopes) == 0


def test_eigencam_of_one_active_channel_is_that_channel():
    features = np.zeros((1, 2, 2, 3))
    features[0, ..., 1] = [[0, 1], [2, 3]]
    found = cams.eigencam(features, None)[0]
    np.testing.assert_allclose(found / found.max(), np.array([[0, 1], [2, 3]]) / 3, atol=1e-12)


def test_scorecam_weights_are_the_softmax_of_the_logits():
    model = by_hand(weights=((1.0, 0.0), (0.0, 0.0)))
    image = np.zeros((1, SIZE, SIZE), np.float32)
    image[0, 0, 0] = 64.0
    # Both channels, scaled to 0..1, are the same picture, so both see the same logit and weigh one half.
    weights = gradcam._increases(model, image, np.array([0]), gradients(model, image, [0], "features")[0])
    np.testing.assert_allclose(weights.ravel(), [0.5, 0.5])
    np.testing.assert_allclose(gradcam.maps(model, image, 0, "scorecam", "features"), image / 64, atol=1e-6)


def test_tokens_become_a_grid_without_the_class_token():
    tokens = np.arange(10.0).reshape(1, 10, 1)
    np.testing.assert_array_equal(gradcam.to_grid(tokens)[0, ..., 0], [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    np.testing.assert_array_equal(gradcam.to_grid(tokens[:, 1:]), gradcam.to_grid(tokens))


def test_transformer_tokens_give_maps():
    """Patches of 2 x 2 as tokens, a class token before them, logits from their mean: the map is the bright patch."""
    image = keras.Input((4, 4, 1))
    x = keras.layers.Reshape((4, 1))(keras.layers.AveragePooling2D(2)(image))
    x = keras.layers.ZeroPadding1D((1, 0), name="tokens")(x)
    x = keras.layers.Dense(2, use_bias=False, kernel_initializer="ones")(keras.layers.GlobalAveragePooling1D()(x))
    slice_ = np.zeros((1, 4, 4), np.float32)
    slice_[0, 2:, :2] = 8
    found = gradcam.maps(keras.Model(image, x), slice_, 1, layer="tokens")[0]
    assert found[3, 0] == 1 and not found[:1].any() and not found[:, 3:].any()
    assert gradcam._last_with_places(keras.Model(image, x)) == "tokens", "whatever has more dimensions before"


@pytest.mark.parametrize("layer", ["stem", "branch", "norm", "sum", "top"])
def test_gradients_equal_finite_differences(network, images, layer):
    """Also at layers inside the residual block, where one branch runs past the cut."""
    features, slopes = gradients(network, images[:2], [0, 2], layer)
    below, above = gradcam.cut(network, layer)
    _, *beside = (np.asarray(end) for end in keras.tree.flatten(below(images[:2, ..., None])))
    step, random = 1e-2, np.random.default_rng(1)
    for place in random.integers(0, features[0].size, 6):
        moved = np.zeros(features[0].size, np.float32)
        moved[place] = step
        moved = moved.reshape(features[0].shape)
        up, down = (np.asarray(above([features + s * moved, *beside])) for s in (1, -1))
        difference = (up - down)[[0, 1], [0, 2]] / (2 * step)
        np.testing.assert_allclose(slopes.reshape(2, -1)[:, place], difference, atol=2e-4, rtol=1e-2)


@pytest.mark.parametrize("method", cams.METHODS)
def test_batched_equals_one_at_a_time(network, images, method, monkeypatch):
    monkeypatch.setattr(gradcam, "BATCH", 4)
    classes = np.array([0, 1, 2, 0, 1, 2, 0])
    batched = gradcam.maps(network, images, classes, method)
    single = [gradcam.maps(network, images[i : i + 1], classes[i : i + 1], method)[0] for i in range(7)]
    np.testing.assert_allclose(batched, single, atol=2e-5)
    assert batched.dtype == np.float32 and batched.min() >= 0
    assert set(batched.max((1, 2))) <= {0, 1} and batched.any()


def test_the_predicted_class_is_the_default(network, images):
    predicted = batches.predict(network, images).argmax(1)
    np.testing.assert_array_equal(gradcam.maps(network, images), gradcam.maps(network, images, predicted))


def test_several_methods_in_one_pass_are_those_of_several(network, images):
    together = gradcam.coarse_maps(network, images, 1, ["layercam", "gradcam"])
    assert together["gradcam"].shape == (7, 8, 8)  # one stride of two
    np.testing.assert_array_equal(gradcam.enlarged(together["gradcam"], 16), gradcam.maps(network, images, 1))


def test_maps_follow_new_weights_without_compiling_again(network, images):
    before = gradcam.maps(network, images, 0)
    with faithfulness.altered(network, ["dense", "logits"], faithfulness.shuffled(1)):
        changed = gradcam.maps(network, images, 0)
    assert np.abs(before - changed).max() > 0.01
    np.testing.assert_array_equal(gradcam.maps(network, images, 0), before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras itself, with NumPy 2
def test_the_model_can_still_be_saved(network, images, tmp_path):
    gradcam.maps(network, images)
    network.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(batches.predict(again, images), batches.predict(network, images), atol=1e-6)


def test_a_network_in_mixed_precision_has_maps_like_the_same_in_float32(network, images):
    half = keras.models.clone_model(network, clone_function=lambda layer: layer.from_config(halved(layer)))
    half.set_weights(values(network))
    assert half.get_layer("top").output.dtype == "bfloat16"
    np.testing.assert_allclose(gradcam.maps(half, images, 1), gradcam.maps(network, images, 1), atol=0.1)


def halved(layer):
    config = layer.get_config()
    if layer.name not in ("image", "logits"):
        config["dtype"] = "mixed_bfloat16"
    return config


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", cams.METHODS)
@pytest.mark.parametrize("value", [0, 255])
def test_black_and_constant_slices_have_finite_maps(network, method, value):
    found = gradcam.maps(network, np.full((2, 16, 16), value, np.uint8), 0, method)
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", cams.METHODS)
def test_features_that_are_zero_give_a_zero_map(method):
    assert not gradcam.maps(by_hand(), np.zeros((1, SIZE, SIZE), np.uint8), 0, method, "features").any()


def test_no_slices_give_no_maps(network):
    assert gradcam.maps(network, np.empty((0, 16, 16), np.uint8)).shape == (0, 16, 16)


def test_a_network_that_was_spoilt_is_named(images):
    model = by_hand(weights=((np.nan, 0), (0, 0)), size=16)
    with pytest.raises(DataError, match="not finite"):
        gradcam.maps(model, images, 0, layer="features")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("method", "theirs"), [("gradcam", "Gradcam"), ("layercam", "Layercam")])
def test_equals_tf_keras_vis(method, theirs):
    import tf_keras_vis.gradcam
    import tf_keras_vis.layercam
    from tf_keras_vis.utils.scores import CategoricalScore

    keras.utils.set_random_seed(5)
    image = keras.Input((16, 16, 1))
    x = keras.layers.Conv2D(6, 3, padding="same", activation="relu")(image)
    x = keras.layers.Conv2D(7, 3, padding="same", activation="relu", name="top")(x)
    x = keras.layers.Dense(4, activation="tanh")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, keras.layers.Dense(3)(x))
    slices = np.random.default_rng(2).uniform(0, 1, (6, 16, 16)).astype(np.float32)
    classes = [0, 1, 2, 0, 1, 2]
    module = {"gradcam": tf_keras_vis.gradcam, "layercam": tf_keras_vis.layercam}[method]
    reference = getattr(module, theirs)(model, clone=False)
    # Theirs is scaled to 0..1 by minimum and maximum, ours by the maximum alone: compare before scaling.
    raw = reference(CategoricalScore(classes), slices[..., None], "top", expand_cam=False, normalize_cam=False)
    raw = np.asarray(raw)
    peak = raw.max((1, 2), keepdims=True)
    assert (peak > 0).sum() >= 3
    expected = np.divide(raw, peak, out=np.zeros_like(raw), where=peak > 0)
    np.testing.assert_allclose(gradcam.maps(model, slices, classes, method, "top"), expected, atol=1e-4)


def test_equals_the_eight_lines_that_the_module_begins_with(network, images):
    import tensorflow as tf

    top, k, image = "top", 1, images[:1, ..., None]
    lines = gradcam.__doc__.split("\n\n")[2]
    variables = {"keras": keras, "tf": tf, "model": network, "top": top, "k": k, "image": image}
    exec(textwrap.dedent(lines), variables)
    heat = np.asarray(variables["heat"])
    assert heat.max() == 1
    np.testing.assert_allclose(gradcam.maps(network, image[..., 0], k), heat, atol=2e-6)


def test_batches_of_one_size_are_filled_up_with_zeros():
    slices = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1)
    both = list(batches.filled(slices, 3, rows=[4, 0, 1, 2]))
    assert [some for some, _ in both] == [slice(0, 3), slice(3, 4)]
    assert [batch.ravel().tolist() for _, batch in both] == [[5, 1, 2], [3, 0, 0]]
    assert all(batch.dtype == np.uint8 for _, batch in both)
    assert list(batches.filled(slices[:0], 3)) == []
