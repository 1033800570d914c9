"""What a stage of a fit trains: a copy of the model, with the layers, loss, metric and optimizer of its own."""

import keras

BN_MOMENTUM = 0.9
"""With some 70 steps an epoch, Keras's 0.99 lags behind the weights for epochs."""


def copy_of(model, image_size: int):
    """Return a copy of a model and its weights, in names and order too, for slices of a size and with `FusedNorm`."""

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
    EfficientNet-Lite0 computes on a processor are BatchNorm. Channels last. Devices together, in bfloat16, and on JAX, which
    fuses what it compiles: Keras's own.
    """

    def call(self, inputs, training=None, mask=None):
        fused = keras.backend.backend() == "tensorflow" and self.compute_dtype == "float32" and not self.synchronized
        if not (fused and training and self.trainable):
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


class CamLoss(keras.layers.Layer):
    """Hands the logits through, and adds the loss of a class told from elsewhere than the tumour: a KL divergence.

    With global average pooling and one dense layer, a logit is the sum over places of what each adds to it: its class
    activation map (CAM; Zhou et al. 2016, eq. 2), which is Grad-CAM's map before ReLU (Selvaraju et al. 2017, section 3.1).
    The softmax over places of the map of the class that the model names is to be as the tumour's area, smoothed over
    neighbouring places (an antialiased resize: a triangle two places wide), is shared among them; less the mean of all
    classes' maps, which the softmax over classes does not see. A slice without a mask adds nothing.
    """

    def __init__(self, weight: float, dense, **kwargs):
        super().__init__(**kwargs)
        self.weight, self.dense = weight, dense

    def call(self, logits, features, masks):
        """Take (n, classes) logits, (n, h, w, d) features and (n, S, S, 1) masks, 0..255; return the logits."""
        ops, kernel = keras.ops, self.dense.kernel
        height, width = features.shape[1:3]
        named = ops.one_hot(ops.argmax(logits, -1), logits.shape[-1])
        weights = ops.matmul(named, ops.transpose(kernel - ops.mean(kernel, -1, keepdims=True)))
        cam = ops.sum(features * weights[:, None, None], -1) / (height * width)
        cover = ops.image.resize(masks / 255, (height, width), antialias=True)
        cam, cover = (ops.reshape(x, (-1, height * width)) for x in (cam, cover))
        share = cover / ops.maximum(ops.sum(cover, -1, keepdims=True), 1e-6)
        loss = ops.sum(share * (ops.log(ops.maximum(share, 1e-6)) - ops.log_softmax(cam)), -1)
        self.add_loss(self.weight * ops.mean(loss))
        return logits


class KnownAccuracy(keras.metrics.Mean):
    """Accuracy over the slices that have a class: those that lost their tumour have none."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Take (n, classes) targets and logits; weights are left out, as accuracy counts slices."""
        ops = keras.ops
        known = ops.max(y_true, -1) > 1.01 / y_true.shape[-1]
        right = ops.equal(ops.argmax(y_true, -1), ops.argmax(y_pred, -1))
        return super().update_state(ops.cast(right, "float32"), sample_weight=ops.cast(known, "float32"))


class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW whose step on each variable is scaled; lower layers of a pretrained backbone may learn more slowly."""

    scales: list[float] = []
    """One factor a trainable variable, in the model's order; empty for all 1."""

    def update_step(self, gradient, variable, learning_rate):
        scale = self.scales[self._get_variable_index(variable)] if self.scales else 1.0
        return super().update_step(gradient, variable, learning_rate * scale)
