"""Maps and scores that can be worked out by hand, and the cases where others divide by zero."""

import importlib.util
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

from btlib import CLASSES, DataError, params
from btlib.deploy import explorer
from btlib.figures import gradcam as figures
from btlib.models import registry as models
from btlib.scores import gradcam, metrics

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


@pytest.fixture(scope="module")
def network():
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


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 3, (7, 16, 16)).astype(np.float32)


# ---- maps


def test_gradcam_of_a_graph_worked_out_by_hand():
    model = by_hand()
    image = np.zeros((1, SIZE, SIZE), np.float32)
    image[0, 2, 3], image[0, 5, 5] = 4, 1
    # Class 0: each channel's mean gradient is its weight / 64; map = (1 x + 2 * 2 x) / 64, and x / max after that.
    np.testing.assert_allclose(gradcam.maps(model, image, 0, layer="features"), image / 4, atol=1e-7)
    # Class 1: (-1 x + 0 * 2 x) / 64 is nowhere positive.
    assert not gradcam.maps(model, image, 1, layer="features").any()
    features, slopes = gradcam.gradients(model, image, 0, "features")
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
    np.testing.assert_allclose(gradcam.METHODS[method](FEATURES, SLOPES)[0, 0], expected)


def test_gradcam_plus_plus_where_its_denominator_is_zero():
    slopes = np.array([[[[-1.0, 0.0]]]])  # 2 * 1 - 1 * 2 = 0 in the first channel, 0 in the second
    assert gradcam.gradcam_plus_plus(np.array([[[[2.0, 5.0]]]]), slopes) == 0


def test_eigencam_of_one_active_channel_is_that_channel():
    features = np.zeros((1, 2, 2, 3))
    features[0, ..., 1] = [[0, 1], [2, 3]]
    found = gradcam.eigencam(features, None)[0]
    np.testing.assert_allclose(found / found.max(), np.array([[0, 1], [2, 3]]) / 3, atol=1e-12)


def test_scorecam_weights_are_the_softmax_of_the_logits():
    model = by_hand(weights=((1.0, 0.0), (0.0, 0.0)))
    image = np.zeros((1, SIZE, SIZE), np.float32)
    image[0, 0, 0] = 64.0
    # Both channels, scaled to 0..1, are the same picture, so both see the same logit and weigh one half.
    weights = gradcam._increases(model, image, np.array([0]), gradcam.gradients(model, image, 0, "features")[0], 4)
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


@pytest.mark.parametrize("layer", ["stem", "branch", "norm", "sum", "top"])
def test_gradients_equal_finite_differences(network, images, layer):
    """Also at layers inside the residual block, where one branch runs past the cut."""
    features, slopes = gradcam.gradients(network, images[:2], np.array([0, 2]), layer)
    below, above = gradcam._cut(network, layer)
    _, *beside = (np.asarray(end) for end in below(images[:2, ..., None]))
    step, random = 1e-2, np.random.default_rng(1)
    for place in random.integers(0, features[0].size, 6):
        moved = np.zeros(features[0].size, np.float32)
        moved[place] = step
        moved = moved.reshape(features[0].shape)
        up, down = (np.asarray(above([features + s * moved, *beside])) for s in (1, -1))
        difference = (up - down)[[0, 1], [0, 2]] / (2 * step)
        np.testing.assert_allclose(slopes.reshape(2, -1)[:, place], difference, atol=2e-4, rtol=1e-2)


@pytest.mark.parametrize("method", gradcam.METHODS)
def test_batched_equals_one_at_a_time(network, images, method):
    classes = np.array([0, 1, 2, 0, 1, 2, 0])
    batched = gradcam.maps(network, images, classes, method, batch_size=4)
    single = [gradcam.maps(network, images[i : i + 1], classes[i : i + 1], method)[0] for i in range(7)]
    np.testing.assert_allclose(batched, single, atol=2e-5)
    assert batched.dtype == np.float32 and batched.min() >= 0
    assert set(batched.max((1, 2))) <= {0, 1} and batched.any()


def test_the_predicted_class_is_the_default(network, images):
    predicted = gradcam.logits_of(network, images).argmax(1)
    np.testing.assert_array_equal(gradcam.maps(network, images), gradcam.maps(network, images, predicted))


def test_several_methods_in_one_pass_are_those_of_several(network, images):
    together = gradcam.maps_of(network, images, 1, ["layercam", "gradcam"])
    np.testing.assert_array_equal(together["gradcam"], gradcam.maps(network, images, 1))


def test_maps_follow_new_weights_without_compiling_again(network, images):
    before = gradcam.maps(network, images, 0)
    with gradcam.altered(network, ["dense", "logits"], gradcam.shuffled(1)):
        changed = gradcam.maps(network, images, 0)
    assert np.abs(before - changed).max() > 0.01
    np.testing.assert_array_equal(gradcam.maps(network, images, 0), before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras itself, with NumPy 2
def test_the_model_can_still_be_saved(network, images, tmp_path):
    gradcam.maps(network, images)
    network.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(gradcam.logits_of(again, images), gradcam.logits_of(network, images), atol=1e-6)


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
@pytest.mark.parametrize("method", gradcam.METHODS)
@pytest.mark.parametrize("value", [0, 255])
def test_black_and_constant_slices_have_finite_maps(network, method, value):
    found = gradcam.maps(network, np.full((2, 16, 16), value, np.uint8), 0, method)
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", gradcam.METHODS)
def test_features_that_are_zero_give_a_zero_map(method):
    assert not gradcam.maps(by_hand(), np.zeros((1, SIZE, SIZE), np.uint8), 0, method, "features").any()


def test_no_slices_give_no_maps(network):
    assert gradcam.maps(network, np.empty((0, 16, 16), np.uint8)).shape == (0, 16, 16)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": 3}, r"classes: got 3 to 3; allowed: 0 to 2"),
        ({"classes": -1}, r"classes: got -1 to -1"),
        ({"classes": 0.5}, r"classes: got float64"),
        ({"classes": [0, 1]}, r"classes: got int64 \(2,\).*\(7,\)"),
        ({"method": "smoothgrad"}, r"method: got 'smoothgrad'; allowed: gradcam, "),
        ({"layer": "tpo"}, r"layer: got 'tpo'; .* stem, branch, norm, sum, top"),
        ({"layer": "pool"}, r"layer: got 'pool'"),
        ({"images": np.zeros((7, 8, 8))}, r"images: got shape \(7, 8, 8\); allowed .*16"),
        ({"images": np.zeros((16, 16))}, r"images: got shape \(16, 16\)"),
        ({"images": np.full((7, 16, 16), np.nan)}, r"not finite"),
    ],
)
def test_wrong_arguments_are_named(network, images, given, message):
    with pytest.raises(DataError, match=message):
        gradcam.maps(network, **{"images": images, **given})


def test_a_network_that_was_spoilt_is_named(images):
    model = by_hand(weights=((np.nan, 0), (0, 0)), size=16)
    with pytest.raises(DataError, match="not finite"):
        gradcam.maps(model, images, 0, layer="features")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(
    not importlib.util.find_spec("tf_keras_vis") or keras.backend.backend() != "tensorflow",
    reason="tf-keras-vis is not installed, or the backend is not TensorFlow",
)
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


# ---- scores


def square(top, left, side=2, size=4):
    mask = np.zeros((1, size, size))
    mask[0, top : top + side, left : left + side] = 1
    return mask


def localised(heat, mask, tolerance=0):
    return gradcam.localisation(heat, mask, tolerance).iloc[0]


def test_energy_pointing_and_iou_by_hand():
    heat = np.zeros((1, 4, 4))
    heat[0, 0, :4] = [4, 3, 2, 1]
    found = localised(heat, square(0, 0))  # inside: 4 and 3 of 10; largest four pixels: two inside, two outside
    assert found.energy == pytest.approx(0.7)
    assert found.pointing == 1
    assert found.iou == pytest.approx(2 / 6)
    assert found.chance == pytest.approx(4 / 16)


def test_a_map_that_is_the_mask_scores_one():
    found = localised(square(1, 1), square(1, 1))
    assert (found[["energy", "pointing", "pointing_tolerance", "iou"]] == 1).all()


def test_tolerance_is_a_distance_in_pixels():
    heat, mask = np.zeros((1, 9, 9)), np.zeros((1, 9, 9))
    mask[0, 0, 0] = heat[0, 3, 4] = 1  # five pixels away
    assert localised(heat, mask, 4).pointing_tolerance == 0
    assert localised(heat, mask, 5).pointing_tolerance == 1
    assert localised(heat, mask, 5).pointing == 0


def test_a_uniform_map_scores_what_chance_does():
    found = localised(np.ones((1, 4, 4)), square(0, 0))
    assert found.energy == found.pointing == found.chance == 4 / 16
    assert found.iou == pytest.approx(1 / 7)  # of 4 pixels at random, 1 hits: 1 / (4 + 4 - 1)


@pytest.mark.filterwarnings("error")
def test_a_zero_map_scores_zero():
    found = localised(np.zeros((1, 4, 4)), square(0, 0), 15)
    assert (found[["energy", "pointing", "pointing_tolerance", "iou"]] == 0).all()


def test_a_map_smaller_than_the_mask_is_not_filled_up_with_zeros():
    heat = np.zeros((1, 4, 4))
    heat[0, 0, 0] = 1
    assert localised(heat, square(0, 0)).iou == pytest.approx(1 / 4)


def test_an_empty_mask_is_refused_and_left_out_of_the_scores(network, images):
    masks = np.zeros((7, 16, 16), np.uint8)
    masks[[1, 4], 3:6, 3:6] = 1
    with pytest.raises(DataError, match="empty"):
        gradcam.localisation(images, masks, 0)
    about = pd.DataFrame({"image_id": [*"abcdefg"], "class_index": 0})
    found = gradcam.scores(network, images, masks, {"gradcam": gradcam.maps(network, images, 0)}, about, 1, 3)
    assert found.image_id.tolist() == ["b", "e"]
    assert not found.isna().any(axis=None)


def brightness(size=4):
    """Logits (mean of the slice, 0): the probability follows what is shown."""
    image = keras.Input((size, size, 1))
    x = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(2, use_bias=False)(x))
    model.layers[-1].set_weights([np.array([[1.0, 0.0]], np.float32)])
    return model


def test_deletion_by_hand():
    image = np.zeros((1, 4, 4), np.float32)
    image[0, 0, :2] = 16  # each pixel adds 1 to the logit
    heat = image + np.linspace(1, 0, 16).reshape(1, 4, 4)
    found = gradcam.faithfulness(brightness(), image, heat, np.array([0]), steps=16)
    p = [1 / (1 + np.exp(-k)) for k in (2, 1, 0)]
    expected = ((p[0] + p[1]) / 2 + (p[1] + p[2]) / 2 + 14 * p[2]) / 16
    assert found.deletion[0] == pytest.approx(expected, abs=1e-6)


def test_a_better_order_has_lower_deletion_and_higher_insertion():
    image = np.zeros((1, 16, 16), np.float32)
    image[0, 4:8, 4:8] = 100
    good = gradcam.faithfulness(brightness(16), image, image, np.array([0]), 8).iloc[0]
    bad = gradcam.faithfulness(brightness(16), image, 100 - image, np.array([0]), 8).iloc[0]
    assert good.deletion < bad.deletion and good.insertion >= bad.insertion


# ---- controls


def test_drawn_controls():
    masks = np.zeros((3, 5, 5), np.uint8)
    masks[0, 0, 0] = masks[1, 0, 0] = masks[1, 0, 1] = masks[2, 4, 4] = 1
    found = gradcam.drawn_controls(np.array([0, 1, 2]), masks, np.array([0, 0, 1]))
    usual = found["class-average mask"]
    assert usual[0, 0, :2].tolist() == [1, 0.5] and usual[1, 4, 4] == 1 and not usual[2].any()
    bell = found["centred Gaussian"][0]
    assert bell[2, 2] == 1 and bell[2, 1] == pytest.approx(np.exp(-((1 / 1.25) ** 2) / 2))
    assert (found["uniform"] == 1).all()


def test_weights_come_back_after_an_error(network):
    before = values(network)
    with pytest.raises(KeyError), gradcam.altered(network, ["norm", "top", "logits"], gradcam.randomised(0)):
        changed = values(network.get_layer("norm"))
        raise KeyError
    assert [set(np.unique(w)) for w in changed] == [{1}, {0}, {0}, {1}]
    for kept, now in zip(before, values(network), strict=True):
        np.testing.assert_array_equal(kept, now)


def test_shuffling_keeps_the_values(network):
    kernel = values(network.get_layer("logits"))[0]
    with gradcam.altered(network, ["logits"], gradcam.shuffled(0)):
        moved = values(network.get_layer("logits"))[0]
    assert not np.array_equal(kernel, moved)
    np.testing.assert_array_equal(np.sort(kernel.ravel()), np.sort(moved.ravel()))


def test_cascade_goes_from_the_head_down():
    steps = gradcam.cascade_steps({"image": 3, "a": 3, "b": 2, "c": 1, "logits": 0}, groups=5)
    assert list(steps) == ["head", "head and 1 of 3 blocks", "head and 2 of 3 blocks", "whole network"]
    assert steps["head and 1 of 3 blocks"] == ["logits", "c"]
    assert steps["whole network"] == ["logits", "c", "b", "image", "a"]


def test_similarity_of_known_maps():
    ramp = np.linspace(0, 1, 256).reshape(1, 16, 16)
    same, turned = gradcam.similarity(ramp, ramp).iloc[0], gradcam.similarity(ramp, 1 - ramp).iloc[0]
    assert same.rank_correlation == pytest.approx(1) and same.ssim == pytest.approx(1)
    assert turned.rank_correlation == pytest.approx(-1) and turned.ssim < 0
    flat = gradcam.similarity(np.full((1, 16, 16), 0.2), np.full((1, 16, 16), 0.6)).iloc[0]
    assert flat.rank_correlation == 0
    assert flat.ssim == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4))


# ---- the study


@pytest.fixture(scope="module")
def study_05():
    """A network whose map is the slice itself, and slices that are black but for the tumour: scores known beforehand.

    Logits are (mean, 0, 0): class 0 is predicted everywhere, so slices of the other classes are wrong.
    """
    n, random = 18, np.random.default_rng(4)
    masks = np.zeros((n, SIZE, SIZE), np.uint8)
    for mask, (top, left) in zip(masks, random.integers(0, SIZE - 2, (n, 2)), strict=True):
        mask[top : top + 2, left : left + 2] = 1
    labels = [CLASSES[i % 3] for i in range(n)]
    about = pd.DataFrame(
        {
            "image_id": [f"s{i}" for i in range(n)],
            "label": labels,
            "patient_id": [f"p{i // 2}" for i in range(n)],
            "plane": ["axial", ""] * (n // 2),
            "mask_area": [4 * (i != 6) for i in range(n)],
        }
    )
    masks[6] = 0
    predictions = about.iloc[::-1][:12].assign(role="test", logit_meningioma=1.0, logit_glioma=0.0, logit_pituitary=0.0)
    run = SimpleNamespace(
        fit=SimpleNamespace(model="tiny"),
        model=lambda: by_hand(weights=((1.0, 0.0, 0.0), (1.0, 0.0, 0.0))),
        predictions=lambda role=None: predictions,
    )
    data = SimpleNamespace(manifest=about, images=masks * 200, masks=masks)
    settings = params.GradCAM(
        methods=["gradcam", "layercam"], models=["a"], protocol="image_holdout", tolerance_px=1, deletion_steps=4
    )
    settings = settings.model_copy(update={"models": ["tiny"]})
    study = SimpleNamespace(gradcam=settings, seed=0, statistics=params.Statistics(bootstrap=200, level=0.95))
    return study, run, data


@pytest.fixture(scope="module")
def examined(study_05):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.REGISTRY, "tiny", SimpleNamespace(feature_layer="features", block=r"^(features)$"))
        return (
            *gradcam.examine(study_05[0], "tiny", *study_05[1:]),
            gradcam.pictures(study_05[1], study_05[2], ["gradcam"]),
        )


def test_test_slices_are_those_of_the_run_in_the_manifests_order(study_05):
    _, run, data = study_05
    found = gradcam.test_slices(run, data)
    assert found["row"].tolist() == list(range(6, 18))
    assert found["image_id"].tolist() == [f"s{i}" for i in range(6, 18)]
    assert found["outcome"].tolist() == ["right", "wrong", "wrong"] * 4
    assert set(found["plane"]) == {"axial", "unknown"}
    assert found["confidence"].iloc[0] == pytest.approx(np.e / (np.e + 2))


def test_maps_that_are_the_tumour_score_one(examined):
    scores, _, _ = examined
    assert not scores.isna().any(axis=None)
    assert "s6" not in set(scores["image_id"])  # it has no mask
    assert len(scores) == 11 * (2 + 5)
    maps = scores[scores["kind"] == "map"]
    assert (maps[["energy", "pointing", "iou"]].round(6) == 1).all(axis=None)
    uniform = scores[scores["method"] == "uniform"]
    np.testing.assert_allclose(uniform[["energy", "pointing", "chance"]], 4 / SIZE**2)
    assert set(scores.loc[scores["kind"] == "control", "method"]) == {
        *("uniform", "centred Gaussian", "class-average mask", "head shuffled", "random weights")
    }


def test_summary_has_a_row_for_every_group_and_no_other(study_05, examined):
    study, _, _ = study_05
    table = gradcam.summary(examined[0], study.statistics, 0)
    assert not table.isna().any(axis=None)
    groups = table[["by", "group"]].drop_duplicates().apply(tuple, axis=1).tolist()
    assert sorted(groups) == sorted(
        [
            *[("all", "all slices"), *(("label", c) for c in CLASSES)],
            *[("outcome", "right"), ("outcome", "wrong"), ("plane", "axial"), ("plane", "unknown")],
        ]
    )
    assert len(table) == len(groups) * 7 * len(gradcam.SCORES)
    assert ((table["low"] <= table["mean"]) & (table["mean"] <= table["high"])).all()


def rows_of(method, kind, low, mean, high):
    about = {"model": "m", "method": method, "kind": kind, "by": "all", "group": "all slices"}
    return [about | {"score": s, "mean": mean, "low": low, "high": high} for s in ("energy", "pointing")]


def test_intervals_that_touch_do_not_exceed():
    table = pd.DataFrame(
        rows_of("gradcam", "map", 0.4, 0.5, 0.6)
        + rows_of("layercam", "map", 0.3, 0.4, 0.5)
        + rows_of("uniform", "control", 0.1, 0.2, 0.3)
        + rows_of("random weights", "control", 0.1, 0.2, 0.25)
    )
    found = gradcam.against_controls(table)
    assert len(found) == 8
    said = gradcam.verdicts(found).set_index("method")
    assert said.loc["gradcam", "exceeds"] and said.loc["gradcam", "not_exceeded"] == "none"
    assert not said.loc["layercam", "exceeds"]
    assert said.loc["layercam", "not_exceeded"] == "energy: uniform; pointing: uniform"


def test_findings_say_whether_the_controls_are_beaten(study_05, examined):
    study, _, _ = study_05
    table = gradcam.summary(examined[0], study.statistics, 0)
    verdicts = gradcam.verdicts(gradcam.against_controls(table))
    said = gradcam.findings(study, table, verdicts)
    assert said.startswith("- **tiny, gradcam:** 100.0 % (") and "where it is wrong); by chance, 6.2 % (" in said
    assert ("do **not** exceed" in said) == (not verdicts["exceeds"].all())


def test_cascade_compares_each_step_with_the_fitted_network(study_05, examined):
    study, _, _ = study_05
    _, cascade, _ = examined
    assert cascade["step"].unique().tolist() == ["head", "head and 1 of 2 blocks", "whole network"]
    table = gradcam.cascade_summary(cascade, study.statistics, 0)
    assert table["score"].tolist() == ["rank_correlation", "ssim"] * 3
    assert not table.isna().any(axis=None) and table["mean"].between(-1, 1).all()


def test_slices_are_picked_by_rule():
    slices = pd.DataFrame(
        {"label": ["glioma"] * 6, "outcome": ["right"] * 5 + ["wrong"], "confidence": [0.5, 0.9, 0.6, 0.8, 0.7, 0.4]}
    )
    found = gradcam.pick(slices)
    assert dict(zip(found["rule"][:3], found["confidence"], strict=False)) == {
        "highest": 0.9,
        "median": 0.7,
        "lowest": 0.5,
    }
    assert found.index.tolist() == [1, 4, 0, 5] and found["rule"].iloc[3] == "highest"


def test_mean_interval():
    # Two patients with means 0 and 1: a resample has mean 0, 0.5 or 1 with probabilities 1/4, 1/2, 1/4.
    mean, low, high = metrics.mean_interval([0, 0, 1, 1], ["a", "a", "b", "b"], 1000, 0.9, 0)
    assert (mean, low, high) == (0.5, 0, 1)
    mean, low, high = metrics.mean_interval([0.0] * 8, [*"aabbccdd"], 100, 0.95, 0)
    assert (mean, low) == (0, 0) and high == pytest.approx(metrics.wilson(0, 8, 0.95)[1])
    with pytest.raises(DataError, match="finite"):
        metrics.mean_interval([np.nan], ["a"], 100, 0.95, 0)


# ---- figures and explorer


def test_figures_of_maps_are_drawn(study_05, examined, tmp_path):
    study, run, data = study_05
    scores, cascade, (images, masks, maps) = examined
    slices, heat = gradcam.test_slices(run, data), maps["gradcam"]
    chosen = gradcam.pick(slices)
    rows, wrong = chosen.index.to_numpy(), slices.index[slices["outcome"] == "wrong"].to_numpy()
    summary = gradcam.summary(scores, study.statistics, 0)
    nobody = slices.iloc[:0]
    drawn = [
        figures.gradcam_examples(images[rows], heat[rows], masks[rows], chosen),
        figures.gradcam_failures(images[wrong], heat[wrong], masks[wrong], slices.loc[wrong]),
        figures.gradcam_failures(images[:0], heat[:0], masks[:0], nobody),
        figures.gradcam_class_means(heat, masks, slices),
        figures.gradcam_against_controls(summary),
        figures.gradcam_cascade(gradcam.cascade_summary(cascade, study.statistics, 0)),
    ]
    for number, figure in enumerate(drawn):
        figure.savefig(tmp_path / f"{number}.png", dpi=50)
    assert drawn[1]._suptitle.get_text() == "8 of 8 wrong predictions, the most confident first"
    assert [t.get_text() for t in drawn[4].axes[0].get_yticklabels()][:3] == ["Grad-CAM", "LayerCAM", "uniform"]
    widths = [bar.get_width() for bar in drawn[4].axes[0].patches]
    assert widths[:2] == pytest.approx([1, 1])


@pytest.fixture
def explored(study_05, examined):
    _, run, data = study_05
    images, masks, maps = examined[2]
    return images, masks, maps, gradcam.test_slices(run, data)


def test_explorer_is_a_picture_where_no_server_started_the_kernel(explored, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert len(explorer.explore(*explored).axes) == 3 * 2  # right meningiomas, wrong gliomas, wrong pituitary tumours
    monkeypatch.setenv("JPY_SESSION_NAME", "05_gradcam.ipynb")
    assert type(explorer.explore(*explored)).__name__ == "VBox"


def test_explorer_steps_through_what_was_chosen(explored):
    panel = explorer.explore(*explored, panel=True)
    controls, words, picture = panel.children
    (label, outcome), (_method, confidence), place = (
        *(box.children for box in controls.children[:2]),
        controls.children[2],
    )
    assert words.value == "1 of 12: image_id s6" and bytes(picture.value).startswith(b"\x89PNG")
    label.value = "glioma"
    assert words.value == "1 of 4: image_id s7"
    before = bytes(picture.value)
    place.value = 3
    assert words.value == "4 of 4: image_id s16" and bytes(picture.value) != before
    outcome.value = "right"
    assert words.value == "no such slice" and bytes(picture.value) == b""
    outcome.value, confidence.value = "all", (0.9, 1)
    assert words.value == "no such slice"


def test_explorer_without_slices_is_refused(explored):
    images, masks, maps, slices = explored
    with pytest.raises(DataError, match="none"):
        explorer.explore(images[:0], masks[:0], {m: h[:0] for m, h in maps.items()}, slices.iloc[:0])
