"""Changes that a slice may meet between scanner and network, each at five strengths: how far may a picture be spoiled?

Strength 5 changes most. Kinds follow Hendrycks and Dietterich 2019 (ImageNet-C, arXiv 1903.12261), as far as they befall MR
slices. Slices are uint8 (S, S).
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

STRENGTHS = (1, 2, 3, 4, 5)


def noise(image: np.ndarray, strength: int, seed: int = 0) -> np.ndarray:
    """Add Rician noise, as magnitude images have it (Gudbjartsson and Patz 1995): 6 grey levels a step in each channel."""
    sigma, rng = 6 * strength, np.random.default_rng(seed)
    real, imaginary = sigma * rng.standard_normal((2, *image.shape))
    return _grey(np.hypot(image + real, imaginary))


def blur(image: np.ndarray, strength: int, seed: int = 0) -> np.ndarray:
    """Blur by a Gaussian: 0.6 % of the side a step."""
    return _grey(ndimage.gaussian_filter(image.astype(float), 0.006 * strength * len(image), mode="nearest"))


def bias_field(image: np.ndarray, strength: int, seed: int = 0) -> np.ndarray:
    """Brighten one side and darken the other, as a coil does: 15 % a step, along a direction that the seed draws."""
    angle = np.random.default_rng(seed).random() * 2 * np.pi
    down, across = np.meshgrid(*[np.linspace(-1, 1, side) for side in image.shape], indexing="ij")
    return _grey(image * (1 + 0.15 * strength * (np.cos(angle) * across + np.sin(angle) * down)))


def gamma(image: np.ndarray, strength: int, seed: int = 0) -> np.ndarray:
    """Darken the middle greys: a gamma of 1.25 to the power of the strength."""
    return _grey(255 * (image / 255) ** 1.25**strength)


def contrast(image: np.ndarray, strength: int, seed: int = 0) -> np.ndarray:
    """Draw greys to the slice's mean: 15 % a step."""
    mean = image.mean()
    return _grey(mean + (1 - 0.15 * strength) * (image - mean))


def jpeg(image: np.ndarray, strength: int, seed: int = 0) -> np.ndarray:
    """Save and read as JPEG: quality 60, 40, 20, 10 and 5."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=(60, 40, 20, 10, 5)[strength - 1])
    return np.array(Image.open(file))


def downsampling(image: np.ndarray, strength: int, seed: int = 0) -> np.ndarray:
    """Shrink to 1 / (1 + strength / 2) of the side and back."""
    side = max(2, round(len(image) / (1 + strength / 2)))
    picture = Image.fromarray(image)
    small = picture.resize((side, side), Image.Resampling.BOX)
    return np.array(small.resize(picture.size, Image.Resampling.BICUBIC))


CHANGES: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "noise": noise,
    "blur": blur,
    "bias field": bias_field,
    "gamma": gamma,
    "contrast": contrast,
    "JPEG": jpeg,
    "down-sampling": downsampling,
}


STEPS = {
    "noise": "6 grey levels a step",
    "blur": "0.6 % of the side a step",
    "bias field": "15 % a step",
    "gamma": "1.25 to the power of the step",
    "contrast": "15 % a step",
    "JPEG": "quality 60, 40, 20, 10, 5",
    "down-sampling": "side by 1.5, 2, 2.5, 3, 3.5",
}
"""What the five strengths of each change are, in words."""


def changed(images, change: str, strength: int, seed: int = 0) -> np.ndarray:
    """Return slices, uint8 (n, S, S), after one of `CHANGES`, of strength 0 (none) to 5; slice i draws from `seed + i`."""
    if strength == 0:
        return images
    return np.stack([CHANGES[change](image, strength, seed + i) for i, image in enumerate(images)])


def _grey(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
