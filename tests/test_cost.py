"""Counts against hand arithmetic and published figures; clocks and memory against calls of known cost."""

import sys
import time

import keras
import numpy as np
import pytest
from keras import layers

from benchmarks import cost
from btlib import ParamsError
from btlib.models import counts
from btlib.params import Head

HEAD = Head(pooling="gap", dropout=0.2, dense=0)


def chain(shape, *parts):
    start = keras.Input(shape)
    x = start
    for part in parts:
        x = part(x)
    return keras.Model(start, x)


@pytest.mark.parametrize(
    ("shape", "layer", "expected"),
    [
        ((8, 8, 3), layers.Conv2D(4, 3, padding="same"), 8 * 8 * 3 * 3 * 3 * 4),
        ((8, 8, 3), layers.Conv2D(4, 3, padding="valid"), 6 * 6 * 3 * 3 * 3 * 4),
        ((8, 8, 3), layers.Conv2D(4, 3, strides=2, padding="same"), 4 * 4 * 3 * 3 * 3 * 4),
        ((8, 8, 6), layers.Conv2D(4, 1, groups=2), 8 * 8 * (6 // 2) * 4),
        ((8, 8, 3), layers.DepthwiseConv2D(5, padding="same"), 8 * 8 * 5 * 5 * 3),
        ((8, 8, 3), layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), 8 * 8 * 3 * 3 * 3 * 2),
        ((9, 7), layers.EinsumDense("abc,cd->abd", (9, 5)), 9 * 7 * 5),
        ((9, 7), layers.EinsumDense("abc,cde->abde", (9, 2, 5)), 9 * 7 * 2 * 5),
        ((9, 2, 7), layers.EinsumDense("abcd,cde->abe", (9, 5)), 9 * 2 * 7 * 5),
        ((9, 7), layers.EinsumDense("...x,xy->...y", 5), 9 * 7 * 5),
        ((9, 7), layers.Embedding(30, 5), 0),
        ((7,), layers.Dense(5), 7 * 5),
        ((9, 7), layers.Dense(5), 9 * 7 * 5),
        ((8, 8, 3), layers.BatchNormalization(), 0),
        ((8, 8, 3), layers.GlobalAveragePooling2D(), 0),
    ],
)
def test_macs_of_one_layer_by_hand(shape, layer, expected):
    assert counts.macs(chain(shape, layer)) == expected


def test_macs_of_attention_by_hand():
    tokens, width, heads, depth = 10, 12, 3, 4
    start = keras.Input((tokens, width))
    model = keras.Model(start, layers.MultiHeadAttention(heads, depth)(start, start))
    projections = 4 * tokens * width * heads * depth
    products = 2 * tokens * tokens * heads * depth
    assert counts.macs(model) == projections + products


def test_macs_enter_a_nested_model_and_add_up():
    inner = chain((8, 8, 3), layers.Conv2D(4, 3, padding="same"))
    outer = chain((8, 8, 3), inner, layers.Flatten(), layers.Dense(2))
    assert counts.macs(outer) == 8 * 8 * 27 * 4 + 8 * 8 * 4 * 2


def test_macs_count_a_layer_as_often_as_it_is_called_and_with_its_size_at_each():
    conv = layers.Conv2D(2, 1)
    start = keras.Input((8, 8, 2))
    model = keras.Model(start, conv(layers.AveragePooling2D(2)(conv(start))))
    assert counts.macs(model) == (8 * 8 + 4 * 4) * 2 * 2
    assert keras.Layer.__call__.__qualname__ == "Layer.__call__", "layers are as they were"


class Matrix(layers.Layer):
    """A layer of somebody's own, with a matrix of weights."""

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], 4), name="table")

    def call(self, x):
        return x @ self.table


class Scale(layers.Layer):
    """A layer of somebody's own that multiplies nothing but each channel."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(1, 1, 1, shape[-1]), name="scale")

    def call(self, x):
        return x * self.scale


def test_macs_are_none_with_a_reason_where_they_cannot_be_counted():
    assert counts.macs_or_reason(chain((6,), Matrix(name="mine"))) == (
        None,
        "layer mine: a Matrix's multiply-adds are not known",
    )
    inside = chain((8, 8, 3), chain((8, 8, 3), Matrix(name="deep")))
    assert counts.macs(inside) is None and "layer deep" in counts.macs_or_reason(inside)[1]
    transposed = counts.macs_or_reason(chain((8, 8, 3), layers.Conv2DTranspose(4, 3)))
    assert transposed[0] is None and "Conv2DTranspose" in transposed[1]
    assert counts.macs_or_reason(chain((8, 8, 3), Scale(), layers.Conv2D(4, 1))) == (8 * 8 * 3 * 4, "")


def lite0():
    from btlib.models import registry as models

    return models.REGISTRY["efficientnet_lite0"].make(224, None, 32)


def vit(size, **sizes):
    import keras_hub

    return keras_hub.models.ViTBackbone(image_shape=(size, size, 3), patch_size=16, **sizes)


@pytest.mark.parametrize(
    ("make", "published", "tolerance"),
    [
        # Tan and Le 2019, table 2: 0.39 billion.
        (lambda: keras.applications.EfficientNetB0(weights=None), 0.39e9, 0.02),
        # torchvision's model table has 15.47 billion; its three dense layers on 7 x 7 x 512 are left out here.
        (
            lambda: keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3)),
            15.47e9 - (7 * 7 * 512 * 4096 + 4096 * 4096 + 4096 * 1000),
            0.001,
        ),
        (lambda: keras.applications.ResNet152V2(weights=None), 11e9, 0.02),
        # torchvision's model table: 17.56 billion.
        (lambda: vit(224, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072), 17.56e9, 0.002),
        # EfficientNet-Lite's authors give 407 million for what, kernel by kernel, are 385 million products.
        (lite0, 0.407e9, 0.06),
    ],
    ids=["efficientnet_b0", "vgg16", "resnet152v2", "vit_b16", "efficientnet_lite0"],
)
def test_macs_at_224_agree_with_published_figures(make, published, tolerance):
    assert counts.macs(make()) == pytest.approx(published, rel=tolerance)


def test_macs_of_a_transformer_are_the_same_in_one_layer_and_block_by_block():
    body = vit(32, num_layers=2, num_heads=3, hidden_dim=12, mlp_dim=20)
    # Four patches and the class token; per block four projections, two layers of the MLP, two products of tokens.
    tokens = 4 + 1
    block = tokens * (4 * 12 * 12 + 2 * 12 * 20) + 2 * tokens * tokens * 12
    assert counts.macs(body) == 4 * 16 * 16 * 3 * 12 + 2 * block
    x = body.get_layer("vit_patching_and_embedding").output
    for part in body.get_layer("vit_encoder").encoder_layers:
        x = part(x)
    assert counts.macs(keras.Model(body.input, x)) == counts.macs(body)


def test_median_leaves_out_warm_up_and_repeats_within_its_budget():
    calls = []

    def call():
        calls.append(0)
        time.sleep(0.3 if len(calls) <= 2 else 0.02)

    assert 0.02 <= cost._median_seconds(call, least=3, most=9, budget=60) < 0.1
    assert len(calls) == 2 + 9
    calls[:] = [0, 0]
    cost._median_seconds(call, least=3, most=1000, budget=0.01)
    assert len(calls) == 2 + 2 + 3


def test_peak_sees_memory_that_is_given_back():
    with cost._Peak() as peak:
        begun = peak.bytes
        block = np.ones(40_000_000)
        time.sleep(0.1)
        del block
    assert 300e6 < peak.bytes - begun < 700e6


def test_measure_a_tiny_model():
    model = chain((16, 16, 1), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(3))
    before = model.get_weights()[0].copy()
    found = cost.measure(model)
    assert list(found) == ["file_mb", "latency_ms", "throughput_per_s", "peak_mb", "fit_seconds_per_100"]
    assert 0 < found["file_mb"] < 1
    assert 0 < found["latency_ms"] < 5000
    # A batch of 32 takes less than 32 single calls.
    assert found["throughput_per_s"] > 1000 / found["latency_ms"]
    assert found["peak_mb"] > 100
    assert 0 < found["fit_seconds_per_100"] < 100
    assert np.array_equal(before, model.get_weights()[0]), "a copy is trained"


def test_table_measures_in_another_process():
    table = cost.table(["vgg16"], 32, ["float32"], HEAD)
    assert list(table.columns) == list(counts.COLUMNS)
    row = table.iloc[0]
    assert (row["model"], row["precision"], row["image_size"], row["output_stride"]) == ("vgg16", "float32", 32, 16)
    # VGG16 without its top has 14,714,688 parameters, and logits from 512 channels 1,539.
    assert row["parameters"] == row["trainable"] == 14_714_688 + 1_539
    # Four bytes a parameter.
    assert row["file_mb"] == pytest.approx(4e-6 * row["parameters"], rel=0.02)
    assert (row[["macs", "latency_ms", "throughput_per_s", "peak_mb", "fit_seconds_per_100"]] > 0).all()


def test_table_has_a_row_for_each_model_and_precision(monkeypatch):
    monkeypatch.setattr(
        cost, "_measured", lambda name, size, stride, precision, head: dict(model=name, precision=precision)
    )
    table = cost.table(["vgg16", "vit_b16"], 32, ["float32", "mixed_bfloat16"], HEAD)
    assert table["model"].tolist() == ["vgg16", "vgg16", "vit_b16", "vit_b16"]
    assert table["precision"].tolist() == ["float32", "mixed_bfloat16"] * 2


def test_table_says_what_is_wrong(monkeypatch):
    with pytest.raises(ParamsError, match="vgg17"):
        cost.table(["vgg16", "vgg17"], 32, ["float32"], HEAD)
    with pytest.raises(ParamsError, match="output_stride: got 8; vgg16 can be built with 16"):
        cost.table(["vgg16"], 32, ["float32"], HEAD, 8)
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RuntimeError, match="vgg16 in float32: measuring ended with 1"):
        cost.table(["vgg16"], 32, ["float32"], HEAD)
