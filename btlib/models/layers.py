"""The copy of a model that a stage of a fit trains."""

import keras

BN_MOMENTUM = 0.9
"""With some 70 steps an epoch, Keras's 0.99 lags behind the weights for epochs."""


def copy_of(model, image_size: int):
    """Return a copy of a model for one stage of training: for slices of a size, and with `FusedNorm`.

    Args:
        model: what `models.build` returned; its weights are copied.
        image_size: of the stage, in pixels.

    Returns:
        keras.Model whose layers and weights have the model's names and order.

    Used by `fit`, and by `make bench` to time what a fit does.
    """

    def copy(layer):
        norm = isinstance(layer, keras.layers.BatchNormalization)
        return (FusedNorm if norm else type(layer)).from_config(
            layer.get_config() | ({"momentum": BN_MOMENTUM} if norm else {})
        )

    image = keras.Input((image_size, image_size, 1), name="image")
    learner = keras.models.clone_model(model, input_tensors=image, clone_function=copy)
    learner.set_weights(model.get_weights())
    return learner


class FusedNorm(keras.layers.BatchNormalization):
    """BatchNorm whose training step is TensorFlow's one fused operation.

    Keras makes the same of ten operations, each a pass over the batch: with them, two fifths of what a step of
    EfficientNet-Lite0 computes on a processor are BatchNorm. Channels last. On other backends, devices together, and in bfloat16: Keras's own.
    """

    def call(self, inputs, training=None, mask=None):
        here = keras.backend.backend() == "tensorflow" and self.compute_dtype == "float32" and not self.synchronized
        if not (here and training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        none, n = tf.zeros([0]), tf.cast(tf.size(inputs) / tf.shape(inputs)[-1], "float32")
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=self.gamma, offset=self.beta, mean=none, variance=none, epsilon=self.epsilon
        )
        variance *= (n - 1) / n  # of this batch, as in Keras; the operation estimates the population's
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + new * (1 - self.momentum))
        return outputs
