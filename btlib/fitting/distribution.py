"""One fit on several accelerators: each takes its part of every batch."""

from contextlib import contextmanager

import keras

from btlib import ParamsError


@contextmanager
def scope(distribution: str, batch_size: int):
    """Make what is built and fitted inside work on all of this machine's accelerators, the model copied to each.

    Weights stay alike: gradients are summed after every step, and BatchNorm's batch statistics are of the whole batch.
    Losses are close to those of one device, and not equal: sums round otherwise.

    Args:
        distribution: "none", or "data_parallel": every GPU, or every logical CPU where there is no GPU.
        batch_size: slices a step, over all devices together.

    Yields:
        How many devices there are.

    Raises:
        ParamsError: the batch cannot be shared out evenly, or Keras runs on JAX.

    Used by `training.fit`.
    """
    if distribution == "none":
        yield 1
        return
    if keras.config.backend() != "tensorflow":
        raise ParamsError(
            f"distribution: got {distribution!r}; allowed with KERAS_BACKEND={keras.config.backend()}: none"
        )
    import tensorflow as tf

    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    _check(batch_size, len(found))
    with tf.distribute.MirroredStrategy([device.name for device in found]).scope():
        yield len(found)


def _check(batch_size: int, devices: int) -> None:
    if batch_size % devices:
        raise ParamsError(f"batch_size: got {batch_size}; allowed with {devices} devices: a multiple of {devices}")
