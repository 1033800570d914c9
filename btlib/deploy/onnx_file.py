"""A model as ONNX, for programs without Keras."""

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

from btlib import DataError, files
from btlib.deploy.publish import Facts


def check(path: Path) -> None:
    """Stop before the work at a file that does not end in .onnx (DataError) or cannot be written (OSError)."""
    if path.suffix != ".onnx":
        raise DataError(f"{path}: ends in {path.suffix!r}; allowed: .onnx")
    files.check_writable(path)


def write(model, facts: Facts, path: Path) -> None:
    """Write a model as ONNX: from "image", float32 (batch, S, S, 1) of 0 to 255, to "logits" (batch, classes).

    Args:
        model: as `publish.open_model` returns it, of float32 layers.
        facts: go into the file's metadata as JSON, under the key "btlib".
        path: the file, ending in .onnx.

    Raises:
        DataError: another ending, tf2onnx is not installed, the model computes in mixed precision, or it has an operation
            that cannot be said in ONNX.
        OSError: `path` cannot be written; said before the work.
    """
    import keras

    check(path)
    mixed = sorted({layer.compute_dtype for layer in model.layers} - {"float32"})
    if mixed:
        raise DataError(f"{facts.name}: computes in {', '.join(mixed)}; allowed for ONNX: float32")
    try:
        import onnx
        import tf2onnx  # noqa: F401  (Keras's exporter needs it)
    except ImportError as error:
        raise DataError(f"{path}: {error.name} is not installed: pip install 'btlib[onnx]'") from None
    _teach_erfc()
    # A loaded model counts as never called, so Keras has to be told what it takes.
    taken = keras.InputSpec(shape=(None, *model.input_shape[1:]), dtype="float32", name="image")
    with files.replacing(path) as temporary:
        with _quiet():
            model.export(temporary, format="onnx", verbose=False, input_signature=[taken])
        exported = onnx.load(temporary)
        if others := [given.name for given in exported.graph.input][1:]:
            raise DataError(
                f"{facts.name}: its ONNX file would ask for {others[0]} beside the image, a constant that Keras's export leaves "
                "outside (a Vision Transformer's positions); allowed: a model that takes its slices alone"
            )
        _rename(exported.graph, "logits")
        onnx.helper.set_model_props(exported, {"btlib": facts.model_dump_json()})
        try:
            onnx.checker.check_model(exported)
        except onnx.checker.ValidationError as error:
            raise DataError(
                f"{facts.name}: has an operation that ONNX has not: {' '.join(str(error).split())}"
            ) from None
        onnx.save(exported, temporary)


def _teach_erfc() -> None:
    """Teach tf2onnx the exact GELU of transformers: TensorFlow computes it with erfc, ONNX has erf alone."""
    from tf2onnx import handler, utils

    @handler.tf_op("Erfc")
    class _Erfc:
        @classmethod
        def version_9(cls, context, node, **_):
            one = context.make_const(utils.make_name("one"), np.ones((), np.float32))
            shape, kind = context.get_shape(node.output[0]), context.get_dtype(node.output[0])
            context.remove_node(node.name)
            erf = context.make_node("Erf", [node.input[0]], shapes=[shape], dtypes=[kind])
            context.make_node("Sub", [one.output[0], erf.output[0]], outputs=node.output, shapes=[shape], dtypes=[kind])


@contextlib.contextmanager
def _quiet():
    """Keep what exporters print, TensorFlow's C++ too, from the screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    kept = [os.dup(1), os.dup(2)]
    try:
        with tempfile.TemporaryFile() as said, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sys.stdout.flush()
            sys.stderr.flush()
            for stream in (1, 2):
                os.dup2(said.fileno(), stream)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        for stream, original in zip((1, 2), kept, strict=True):
            os.dup2(original, stream)
            os.close(original)
        logging.disable(disabled)


def _rename(graph, output: str) -> None:
    """Give an ONNX graph's one output and the batch dimension names of ours."""
    old = graph.output[0].name
    graph.output[0].name = output
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [output if n == old else n for n in names]
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
