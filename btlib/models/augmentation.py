"""Random changes of training slices: moved, shaded, and some without their tumour."""

import keras
import numpy as np

from btlib.models import erasing


class Augment(keras.layers.Layer):
    """Random flips, one affine change, and changes of intensity, drawn for every slice of a batch; none outside training.

    `augmentation` (params.Augmentation) says how much of what. Notebook 02.
    """

    def __init__(self, augmentation, image_size: int, seed: int):
        super().__init__(name="augment", dtype="float32")
        self.a, self.size = augmentation, image_size
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        """Take (n, S, S, 1) slices, 0..255, or (n, S, S, 2) with their masks, which move with them and keep their values."""
        images = keras.ops.cast(images, "float32")
        if not training:
            return images
        moved = self.move(images)
        changed = self.intensities(moved[..., :1])
        return changed if moved.shape[-1] == 1 else keras.ops.concatenate([changed, moved[..., 1:]], axis=-1)

    def move(self, images):
        """Flip left-right, rotate, zoom and shift in one resampling; what comes from outside is black."""
        a, ops = self.a, keras.ops
        n = ops.shape(images)[0]
        angle = self.uniform(n, np.deg2rad(a.rotation_degrees))
        scale = 1 + self.uniform(n, a.zoom)
        mirror = ops.sign(self.uniform(n, 1.0)) if a.flip else ops.ones((n,))
        shift_x, shift_y = (self.uniform(n, a.shift * self.size) for _ in "xy")
        cos, sin, centre = ops.cos(angle) / scale, ops.sin(angle) / scale, (self.size - 1) / 2
        # Output to input: (x, y) -> (a0 x + a1 y + a2, b0 x + b1 y + b2), about the centre.
        a0, a1, b0, b1 = mirror * cos, -mirror * sin, sin, cos
        a2 = centre - (a0 + a1) * centre + shift_x
        b2 = centre - (b0 + b1) * centre + shift_y
        zero = ops.zeros((n,))
        transform = ops.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)
        return ops.image.affine_transform(
            images, transform, interpolation="bilinear", fill_mode="constant", fill_value=0
        )

    def intensities(self, images):
        """Change contrast, gamma, a smooth bias field and noise; stay within 0..255."""
        a, ops = self.a, keras.ops
        n = ops.shape(images)[0]
        x = images / 255

        def each(limit):
            return ops.reshape(self.uniform(n, limit), (n, 1, 1, 1))

        if a.gamma:
            x = ops.power(ops.clip(x, 1e-6, 1.0), ops.exp(each(a.gamma)))
        if a.bias_field:
            line = ops.reshape(ops.linspace(-1.0, 1.0, self.size), (1, self.size, 1, 1))
            across = ops.reshape(line, (1, 1, self.size, 1))
            x = x * (1 + each(a.bias_field) * line + each(a.bias_field) * across)
        if a.contrast:
            x = x * (1 + each(a.contrast))
        if a.noise:
            sigma = ops.abs(each(a.noise))
            x = x + sigma * keras.random.normal(ops.shape(x), seed=self.generator)
        return ops.clip(x, 0.0, 1.0) * 255

    def uniform(self, n, limit):
        """Return n numbers between -limit and limit."""
        return keras.random.uniform((n,), -limit, limit, seed=self.generator) if limit else keras.ops.zeros((n,))


def erased(images, masks, targets, erase, rng):
    """Take the tumour, and with it the class, from some slices of a batch, and as large a shape elsewhere from others.

    Args:
        images: (n, S, S, 1) uint8.
        masks: (n, S, S, 1) uint8 of 0 and 1; a slice without a mask stays as it is.
        targets: (n, classes) float32.
        erase: params.Erase, which shares, by which fills.

    Returns:
        Copies of the three: a slice without its tumour has an empty mask, and no class is likelier than another. The region
        is the mask widened by 1 to 4 pixels. Notebook 04.
    """
    images, masks, targets = images.copy(), masks.copy(), targets.copy()
    order = rng.permutation(len(images))
    n_tumor, n_elsewhere = (round(share * len(images)) for share in (erase.tumor, erase.elsewhere))
    for place, i in enumerate(order[: n_tumor + n_elsewhere]):
        image, mask = images[i, ..., 0], masks[i, ..., 0] > 0
        head = erasing.head_of(image)
        region = erasing.widen(mask, int(rng.integers(1, 5)))
        if place >= n_tumor and mask.any():
            region = erasing.elsewhere(region, head, rng)
        if not mask.any() or region is None:
            continue
        fill = erase.fills[rng.integers(len(erase.fills))]
        image = erasing.filled(fill, image, region, head & ~mask)
        images[i, ..., 0] = erasing.noisy(image, region, erase.noise * rng.random(), rng)
        if place < n_tumor:
            masks[i], targets[i] = 0, 1 / targets.shape[1]
    return images, masks, targets
