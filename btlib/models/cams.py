"""Class activation maps: from a layer's features, and what each is worth to a class, to where the class is seen."""

import numpy as np


def gradcam(features, gradients):
    """Channels weighted by their mean gradient. Selvaraju et al. 2017, doi 10.1109/ICCV.2017.74."""
    return (features * gradients.mean((1, 2), keepdims=True)).sum(-1)


def gradcam_plus_plus(features, gradients):
    """Channels weighted by their positive gradients. Chattopadhay et al. 2018, doi 10.1109/WACV.2018.00097."""
    below = 2 * gradients**2 + gradients**3 * features.sum((1, 2), keepdims=True)
    alpha = np.divide(gradients**2, below, out=np.zeros_like(gradients), where=below != 0)
    return (features * (alpha * np.maximum(gradients, 0)).sum((1, 2), keepdims=True)).sum(-1)


def hirescam(features, gradients):
    """Features times gradients, place by place. Draelos, Carin 2020, arXiv 2011.08891."""
    return (features * gradients).sum(-1)


def layercam(features, gradients):
    """Features times positive gradients, place by place. Jiang et al. 2021, doi 10.1109/TIP.2021.3089943."""
    return (features * np.maximum(gradients, 0)).sum(-1)


def scorecam(features, increases):
    """Channels weighted by what the logit gains when only they are shown. Wang et al. 2020, arXiv 1910.01279."""
    return (features * increases).sum(-1)


def eigencam(features, gradients):
    """First principal component of the features, no class involved. Muhammad, Yeasin 2020, arXiv 2008.00299."""
    flat = features.reshape(len(features), -1, features.shape[-1]).astype(np.float64)
    # The component's score at each place is an eigenvector of the small (h * w)-square matrix of inner products.
    _, vectors = np.linalg.eigh(flat @ flat.transpose(0, 2, 1))
    projected = vectors[..., -1]
    # An eigenvector's sign is arbitrary; features are mostly positive, so their component is turned that way.
    sign = np.where(projected.sum(1, keepdims=True) < 0, -1, 1) * flat.any((1, 2))[:, None]
    return (projected * sign).reshape(features.shape[:3]).astype(features.dtype)


METHODS = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
    "layercam": layercam,
    "scorecam": scorecam,
    "eigencam": eigencam,
}
"""Name to method: from features and gradients, float32 (n, h, w, c), to a map (n, h, w) that may be negative."""
